"""Speed of a full-size network on this machine's CPU: ``python -m img_deploy.benchmarks.cpu --out benchmarks/results``.

A network of the published size with random weights is exported, then eager PyTorch, the published way of computing
and ONNX Runtime answer the same drawn pairs in turns. Speed does not depend on what the weights are.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.benchmarks.contenders import EAGER, Contender, Lineup, open_contenders
from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.latency import Grid
from img_deploy.benchmarks.page import Document, head, ms, origin, spread, table, table_of, write_results
from img_deploy.benchmarks.profile import ProfileOptions, measure_lineup
from img_deploy.benchmarks.profile_tables import stage_columns, start_columns
from img_deploy.benchmarks.timing import Effort
from img_deploy.errors import ImgDeployError, VerificationError
from img_deploy.runtime.backends.choose import Choice
from img_deploy.runtime.backends.protocol import Backend, Feeds
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.inputs import input_rules

if TYPE_CHECKING:
    from img_deploy.model.checkpoint import Checkpoint
    from img_deploy.model.network import IMGNetwork

CPU_EAGER = f"{EAGER}:cpu"
AGAIN = f"{CPU_EAGER} again"
PUBLISHED = "as published"
CONTENDERS = {
    CPU_EAGER: "this project's network in eager PyTorch: the baseline of every ratio",
    AGAIN: "the same once more: how far a ratio of nothing may be from 1",
    PUBLISHED: "eager PyTorch with packed `nn.GRU` in step 13 and all three predictors, as the published code computes",
    "onnxruntime:cpu": "the exported graphs in ONNX Runtime",
}
TOLERANCE = 3e-5
"""Largest difference of a logit (absolute, float32) with which the published way counts as the same network."""
SEED = 0
COMMAND = "python -m img_deploy.benchmarks.cpu"


def full_size_checkpoint(seed: int = SEED) -> "Checkpoint":
    """A checkpoint of the published size (D = 128, I3D and PANNs features, GloVe variant) with random weights."""
    import torch

    from img_deploy.model.checkpoint import Checkpoint
    from img_deploy.model.config import ModelConfig
    from img_deploy.model.network import IMGNetwork
    from img_deploy.text.vocabulary import Vocabulary

    letters = "abcdefghijklmnopqrstuvwxyz"
    syllables = ["".join(pair) for pair in product("bdfklmnprst", "aeiou")]
    words = ["".join(pair) for pair in product(syllables[:30], syllables)]
    vectors = np.random.default_rng(seed).standard_normal((len(words), 300), np.float32)
    vocabulary = Vocabulary(words, vectors, letters)
    config = ModelConfig(chars=vocabulary.char_table_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = IMGNetwork(config)
    network.draw_slot_noise(seed)
    features = {"video": {"name": "i3d", "width": 1024}, "audio": {"name": "panns", "width": 2048}}
    origin = {"origin": "random weights for timing", "seed": seed}
    return Checkpoint(config, network.state_dict(), features, seed, vocabulary, provenance=origin)


def check_published(network: "IMGNetwork", seed: int = SEED) -> float:
    """Largest difference of any grounder output between both ways of computing, over ragged batches.

    Raises VerificationError above :data:`TOLERANCE`.
    """
    from img_deploy.runtime.backends.torch.backend import TorchBackend

    random = np.random.default_rng(seed)
    one, other = TorchBackend(network), _as_published(network)
    differences = []
    for lengths in ([1], [7, 31], [network.config.max_clips, 64, 3]):
        feeds, mask = _grounder_feeds(random, np.array(lengths), 9, network.config.dim)
        expected, found = one.run("grounder", feeds), other.run("grounder", feeds)
        for name, values in expected.items():
            real = mask if values.ndim == 2 else np.ones(len(lengths), bool)
            differences.append(np.abs(found[name][real] - values[real]).max())
    largest = float(np.max(differences))  # NaN where any is
    if not largest <= TOLERANCE:
        raise VerificationError(
            f"published way of computing: off by {largest:.1e}, expected at most {TOLERANCE}; its time is of no worth"
        )
    return largest


def _as_published(network: "IMGNetwork") -> Backend:
    from img_deploy.benchmarks.published import published_network
    from img_deploy.runtime.backends.torch.backend import TorchBackend

    return TorchBackend(published_network(network))


def _grounder_feeds(random: np.random.Generator, lengths: Any, words: int, dim: int) -> tuple[Feeds, Any]:
    batch, longest = len(lengths), int(lengths.max())
    mask = np.arange(longest) < lengths[:, None]  # [B, L]
    sizes = {"visual_clips": longest, "audio_clips": longest, "visual_words": words, "audio_words": words}
    feeds = {name: random.standard_normal((batch, size, dim), np.float32) for name, size in sizes.items()}
    return {**feeds, "clip_mask": mask, "word_mask": np.ones((batch, words), bool)}, mask


def lineup_of(bundle: Bundle, network: "IMGNetwork", backends: Sequence[str], threads: int | None) -> Lineup:
    """Eager PyTorch twice, the published way of computing, and other backends, all on the CPU."""
    opened = open_contenders(bundle, [CPU_EAGER, *backends], threads)
    rules = input_rules(bundle)
    eager = opened.contenders[0].predictor.choice
    extra = [
        Contender(bundle, rules, eager, AGAIN),
        Contender(bundle, rules, Choice(_as_published(network), "the published code's way"), PUBLISHED),
    ]
    return Lineup((opened.contenders[0], *extra, *opened.contenders[1:]), opened.out)


def run(work: Path, options: ProfileOptions, command: str) -> Document:
    """Export into ``work``, check and measure; gives what ``cpu.json`` holds."""
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint

    where = environment(options.threads)
    checkpoint = full_size_checkpoint()
    network = checkpoint.network()
    _tell("checking the published way of computing")
    difference = check_published(network)
    _tell("exporting")
    verification = bundle_from_checkpoint(checkpoint, work / "deploy", ExportOptions(), _tell)
    bundle = Bundle.open(work / "deploy")
    lineup = lineup_of(bundle, network, ["onnxruntime:cpu"], options.threads)
    started = [CPU_EAGER, "onnxruntime:cpu"]
    profile = measure_lineup(bundle, lineup, options, where, started, lambda name, _total: _tell(name))
    return {
        **profile.as_dict(),
        "bundle": "random weights, full size",  # it was temporary: its path says nothing to a reader
        "command": command,
        "contenders": CONTENDERS,
        "checks": {"published_difference": difference, "export": verification.as_dict()},
    }


METHOD = (
    "- All versions answered the same batches in turns (A B C D, then B C D A, ...), on rotating inputs. A ratio is "
    "the median over rounds of eager PyTorch's time over the version's in the same round; in brackets its quartiles. "
    "Latency is from features in memory and a sentence to the moment, for the whole batch; asked is a further query on "
    "videos that are encoded already."
)
STAGES_TEXT = "Medians in milliseconds for the whole batch; decode is all that surrounds the grounder's graph."
STARTS_TEXT = "Medians in milliseconds, a fresh process each (files in the system's memory), one pair, longest video."
HEAD = (
    *("batch", "version", "p50 ms", "p90 ms", "least ms", "pairs/s", "vs eager"),
    *("asked p50 ms", "asked vs eager", "rounds"),
)


def page(result: Document) -> str:
    """``cpu.md`` of what ``cpu.json`` holds: everything a reader needs to judge the figures."""
    cases, checks = result["cases"], result["checks"]
    off = [f"the published way of computing is off by at most {checks['published_difference']:.1e} from the network"]
    off += [
        f"{row['backend']} {row['precision']}'s grounder by {row['largest']:.1e}, same best span in "
        f"{row['agreement']:.1%} of {row['samples']} samples"
        for row in checks["export"]["rows"]
        if row["graph"] == "grounder"
    ]
    network = (
        "Network: random weights, full size (D = 128, video 1024, audio 2048, GloVe variant), fp32; inputs "
        f"{result['inputs']}, {result['words']} words per query"
    )
    busy = f"other programs kept {result['neighbours']} cores busy meanwhile"
    lines = head("Speed on a CPU", result["command"], "cpu.json") + origin(result, busy, network)
    lines += [f"- Checked before timing: {'; '.join(off)}.", METHOD, ""]
    lines += [f"- `{name}`: {text}." for name, text in result["contenders"].items()]
    lines += ["", *(line for note in result["notes"] for line in (f"Note: {note}.", ""))]
    for clips in sorted({case["clips"] for case in cases}):
        rows = [_row(case) for case in cases if case["clips"] == clips]
        lines += [f"## {clips} clips", "", *table(HEAD, rows)]
    lines += ["## Stages", "", STAGES_TEXT, "", *table_of(stage_columns(result))]
    if result["starts"]:
        lines += ["## From nothing to the first answer", "", STARTS_TEXT, "", *table_of(start_columns(result))]
    return "\n".join(lines)


def _row(case: dict[str, Any]) -> tuple[object, ...]:
    times, asked = case["latency"], case["asked"]
    return (
        *(case["batch"], case["backend"], ms(times["p50"]), ms(times["p90"]), ms(times["low"])),
        *(f"{case['pairs_per_second']:.1f}", spread(case["ratio"])),
        *(ms(asked["p50"]), spread(case["asked_ratio"]), times["count"]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write ``cpu.json`` and ``cpu.md``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=20.0, help="time per case, at least 5 rounds (default 20)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 4, 16], help="default 1 4 16")
    parser.add_argument("--clips", type=int, nargs="+", default=[32, 64, 128], help="default 32 64 128")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: each backend's choice)")
    parser.add_argument("--work", type=Path, default=None, help="keep the exported bundle here (default: temporary)")
    given = parser.parse_args(arguments)
    try:
        grid = Grid(tuple(given.batch_size), tuple(given.clips))
        options = ProfileOptions(grid=grid, effort=Effort(given.seconds), threads=given.threads)
        command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
        with TemporaryDirectory(prefix="img-deploy-cpu-") as place:
            result = run(given.work or Path(place), options, command)
        for path in write_results(given.out, "cpu", result, page):
            _tell(f"wrote {path}")
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
