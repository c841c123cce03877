"""The server on this machine's CPU: batches of many clients against one request at a time.

A network of the published size with random weights is exported and served over loopback. Requests come from this
process: from clients that wait for their answers, and at several rates, evenly and by chance (open loop). A small
network is asked long enough to see whether memory grows, and whether an answer is the same alone and in company.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from img_deploy.benchmarks.cpu import full_size_checkpoint
from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.load import Ask, Server, clients, open_loop, replies, server
from img_deploy.benchmarks.page import Document, write_results
from img_deploy.benchmarks.serve_page import CLIENTS, SHARES, SPACINGS, page
from img_deploy.benchmarks.workload import draw_queries
from img_deploy.errors import ImgDeployError, InputError, VerificationError
from img_deploy.hardware import OtherPrograms
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.inputs import InputRules, input_rules

COMMAND = "python -m img_deploy.benchmarks.serve"
VIDEOS, WORDS, SENTENCES = 16, 8, 64
ONE_AT_A_TIME = ("--batch-size", "1", "--window-ms", "0", "--threads", "1")
SMALL_CLIPS = 16
KINDS = 400
"""Different requests among the mixed ones."""
PLACES = {"--work", "--out"}
"""Options that have no part in what is measured."""
Options = argparse.Namespace


def drawn_folder(place: Path, rules: InputRules, lengths: Sequence[int], silent: int = 0) -> Path:
    """A folder of features of a video of each length; every ``silent``-th has no sound, if that is not 0."""
    random = np.random.default_rng(0)
    for stream, width in (("video", rules.video.width), ("audio", rules.audio.width)):
        (place / stream).mkdir(parents=True)
        for number, clips in enumerate(lengths):
            if stream == "video" or not silent or number % silent:
                np.save(place / stream / f"v{number}.npy", random.standard_normal((clips, width), np.float32))
    return place


def questions(rules: InputRules) -> Callable[[int], bytes]:
    """Bodies of requests by their number: a sentence about one video each."""
    sentences = draw_queries(rules, WORDS, SENTENCES, np.random.default_rng(1))
    bodies = [
        json.dumps({"query": text, "videos": [f"v{row % VIDEOS}"]}).encode() for row, text in enumerate(sentences)
    ]
    return lambda number: bodies[number % len(bodies)]


def speed(bundle: Path, place: Path, clips: int, options: Options) -> Document:
    """Both ways of serving in turns, then the open loop at shares of the capacity."""
    rules = input_rules(Bundle.open(bundle))
    features, ask = drawn_folder(place / f"of_{clips}", rules, [clips] * VIDEOS), questions(rules)
    threads = () if options.threads is None else ("--threads", str(options.threads))
    with server(bundle, features, *threads) as many, server(bundle, features, *ONE_AT_A_TIME) as one:
        for each in (many, one):  # every video is encoded, and every size of batch was run, before anything is timed
            each.measured(lambda to: clients(to, ask, CLIENTS, 600, 8 * CLIENTS))
        rounds = [
            {
                name: each.measured(lambda to: clients(to, ask, CLIENTS, options.seconds / 2))
                for name, each in (("batched", many), ("one_at_a_time", one))
            }
            for _ in range(options.rounds)
        ]
        unloaded = many.measured(lambda to: clients(to, ask, 1, options.seconds / 2))
        loop: list[Document] = [
            {"spacing": spacing, "share": share} | _at_share(many, ask, share, spacing, options.seconds)
            for spacing, share in product(SPACINGS, SHARES)
        ]
    ratios = [row["batched"]["per_second"] / row["one_at_a_time"]["per_second"] for row in rounds]
    work = [row["one_at_a_time"]["server_cpu_ms"] / row["batched"]["server_cpu_ms"] for row in rounds]
    return {
        "clips": clips,
        "rounds": rounds,
        "ratio": round(float(np.median(ratios)), 2),
        "cpu_ratio": round(float(np.median(work)), 2),
        "unloaded": unloaded,
        "open_loop": loop,
        "p99_over_unloaded_p50": {
            row["spacing"]: round(row["p99_ms"] / row["unloaded_p50_ms"], 2)
            for row in loop
            if row["share"] == SHARES[-1]
        },
    }


def _at_share(one: Server, ask: Ask, share: float, spacing: str, seconds: float) -> Document:
    """The open loop at a share of the capacity. That and the idle server's p50 are measured right before: shared
    machines change their speed within a minute."""
    unloaded = one.measured(lambda to: clients(to, ask, 1, seconds / 4))["p50_ms"]
    capacity = one.measured(lambda to: clients(to, ask, CLIENTS, seconds / 4))["per_second"]
    load = one.measured(lambda to: open_loop(to, ask, share * capacity, seconds, spacing))
    return {"rate": round(share * capacity, 1), "unloaded_p50_ms": unloaded} | load


def memory(bundle: Path, place: Path, options: Options) -> Document:
    """Resident memory of a server of two workers, in ten parts of many requests."""
    rules = input_rules(Bundle.open(bundle))
    features, ask = drawn_folder(place / "alike", rules, [SMALL_CLIPS] * VIDEOS), questions(rules)
    count, parts = options.memory_requests // 10, []
    with server(bundle, features, "--workers", "2", "--threads", "1") as one:
        for part in range(10):
            load = one.asked(lambda to: clients(to, ask, CLIENTS, 3600, count))
            processes = [one.process, *one.process.children(recursive=True)]
            mib = round(sum(each.memory_info().rss for each in processes) / 2**20, 1)
            _tell(f"{(part + 1) * count} requests: {mib} MiB")
            parts.append({"requests": (part + 1) * count, "mib": mib, "per_second": load.figures()["per_second"]})
    return {"parts": parts}


def answers(bundle: Path, place: Path, options: Options) -> Document:
    """Mixed requests of many clients against each asked alone. Raises VerificationError: other moments, or other facts.

    Videos of different lengths, with sound and without; one, several or all of them; several moments, or the best ones.
    """
    rules, random = input_rules(Bundle.open(bundle)), np.random.default_rng(2)
    lengths = random.integers(1, rules.max_clips, VIDEOS).tolist()
    features, kinds = drawn_folder(place / "mixed", rules, lengths, silent=4), []
    for number in range(KINDS):
        [text] = draw_queries(rules, int(random.integers(1, 16)), 1, random)
        body: Document = {"query": text, "top_k": int(random.integers(1, 6)), "nms": float(random.choice([0.3, 0.5]))}
        if number % 20:
            body["videos"] = [f"v{one}" for one in random.choice(VIDEOS, random.integers(1, 4), replace=False)]
        else:
            body["best"] = 5
        kinds.append(json.dumps(body | {"curves": number % 5 == 0}).encode())
    drawn = random.integers(0, KINDS, options.mixed_requests)
    with server(bundle, features) as one:
        single = one.asked(lambda to: replies(to, kinds, 1))
        mixed = one.asked(lambda to: replies(to, [kinds[kind] for kind in drawn], 64))
        sizes = one.batches()
    pairs = [(single[kind], reply) for kind, reply in zip(drawn, mixed, strict=True)]
    apart = [difference(json.loads(alone), json.loads(reply)) for alone, reply in pairs if alone != reply]
    return {
        "requests": len(pairs),
        "kinds": KINDS,
        "same_bytes": len(pairs) - len(apart),
        "largest_difference": max(apart, default=0.0),
        "mean_batch": round(sizes["sum"] / sizes["count"], 1),
    }


def difference(one: Any, other: Any) -> float:
    """Largest difference of two numbers of the same place, relative to 1 or the larger. All else must be equal.

    Raises VerificationError.
    """
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) / max(1.0, abs(one), abs(other))
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((difference(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(difference, one, other), default=0.0)
    if one != other:
        raise VerificationError(f"an answer in company differs from the single one: {one!r:.100} and {other!r:.100}")
    return 0.0


def bundles(work: Path) -> tuple[Path, Path]:
    """A network of the published size and a small one, exported into ``work`` where they are not there yet."""
    from dataclasses import replace

    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint
    from img_deploy.model.checkpoint import Checkpoint
    from img_deploy.model.network import IMGNetwork

    full = full_size_checkpoint()
    small = replace(full.config, dim=16, heads=2)
    network = IMGNetwork(small)
    network.draw_slot_noise(0)
    tiny = Checkpoint(small, network.state_dict(), full.features, 0, full.vocabulary)
    for name, one in (("deploy", full), ("small", tiny)):
        if not (work / name).exists():
            bundle_from_checkpoint(one, work / name, ExportOptions(), _tell)
    return work / "deploy", work / "small"


def run(work: Path, options: Options, command: str) -> Iterator[Document]:
    """The parts that are asked for, each under its name and with where it was measured."""
    full, small = bundles(work)
    parts: dict[str, Callable[[Path], Document]] = {
        f"speed_{clips}": partial(speed, full, clips=clips, options=options) for clips in options.clips
    }
    parts |= {
        "memory": lambda place: memory(small, place, options),
        "answers": lambda place: answers(small, place, options),
    }
    for name, measure in parts.items():
        if name.partition("_")[0] in options.parts:
            _tell(f"measuring {name}")
            where, others = environment(options.threads), OtherPrograms()
            with TemporaryDirectory(prefix="img-deploy-serve-") as place:
                found = measure(Path(place))
            found |= {"command": command, "environment": where, "other_programs_cores": others.cores()}
            yield {name: found}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write ``serve.json`` and ``serve.md``; parts that are not run stay as they are there."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parts = ("speed", "memory", "answers")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts), help="default: all")
    parser.add_argument("--clips", nargs="+", type=int, default=[24, 64, 128], help="of each video (24 64 128)")
    parser.add_argument("--threads", type=int, default=None, help="of the servers whose speed is measured (theirs)")
    parser.add_argument("--seconds", type=float, default=10, help="of each rate; half for other loads (10)")
    parser.add_argument("--rounds", type=int, default=3, help="of both ways of serving in turns (3)")
    parser.add_argument("--memory-requests", type=int, default=100_000, help="100000")
    parser.add_argument("--mixed-requests", type=int, default=10_000, help="10000")
    parser.add_argument("--work", type=Path, default=None, help="keep the exported bundles here (default: temporary)")
    given = parser.parse_args(arguments)
    words = sys.argv[1:] if arguments is None else arguments
    command = " ".join([COMMAND, *(word for before, word in pairwise(["", *words]) if not PLACES & {before, word})])
    try:
        with TemporaryDirectory(prefix="img-deploy-serve-") as place:
            for part in run(given.work or Path(place), given, command):
                for path in write_results(given.out, "serve", _known(given.out / "serve.json") | part, page):
                    _tell(f"wrote {path}")
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _known(path: Path) -> Document:
    """What an earlier run has measured. Raises InputError: it is no such file."""
    try:
        return dict(json.loads(path.read_bytes())) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); move it away") from None


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
