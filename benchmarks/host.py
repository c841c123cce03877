"""What the host adds to one pair on a GPU: ``python -m img_deploy.benchmarks.host --out benchmarks/results``.

The predictor and the backend that serves answers run as on a GPU, over a device that computes nothing and gives what
lies in its buffers. What is left is the host's part: checks, padding, filling and cutting buffers, answers.
Copies to and from a GPU, and the launch itself, are not in these figures. Needs no GPU.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from img_deploy.benchmarks.environment import environment, use_threads
from img_deploy.benchmarks.page import Document, head, origin, table, write_results
from img_deploy.benchmarks.timing import Effort, Slice, in_slices, summarize
from img_deploy.errors import ImgDeployError

COMMAND = "python -m img_deploy.benchmarks.host"
WANTED_US = 100.0
"""For one pair, from features in memory to the launch and from its outputs to the answer."""
CLIPS, WORDS = 128, 10
CROWD = 64
ONE = "answer"
APART = ("encode video", "encode query", "ground")
"""Calls of the predictor, one after the other, that do the same."""
CHECKS, WORD_ROWS = "checks of the features", "words and their vectors"
PARTS = {
    ONE: (WORD_ROWS, "buffers of the pair"),
    APART[0]: (CHECKS, "buffers of the video encoder"),
    APART[1]: (WORD_ROWS, "buffers of the query encoder"),
    APART[2]: ("buffers of the grounder",),
}
"""Call of the predictor -> its parts. The rest of a call is checks of results, and making what it returns."""
ROUNDING = "the features rounded once"


def measure(seconds: float) -> dict[str, dict[str, float]]:
    """Microseconds of each call and part for one pair, and of the backend's calls for many pairs."""
    calls = dict(_calls())
    slices = in_slices(calls, Effort(seconds * len(calls), warmup=10))
    least = min(min(one.before, one.after) for each in slices.values() for one in each)
    return {name: summed_up(each, least) for name, each in slices.items()}


def summed_up(slices: list[Slice], least: float) -> dict[str, float]:
    """``quiet`` is the median while nothing slowed the machine from outside, or of all calls if that was never so."""
    times = [time for one in slices for time in one.times]
    calm = [time for one in slices for time in one.times if one.quiet(least)]
    quiet, share = float(np.median(calm or times)), len(calm) / len(times)
    return {**summarize(times).as_dict(), "quiet": quiet, "quiet_share": share}


def _calls() -> Iterator[tuple[str, Callable[[], object]]]:
    import torch

    from img_deploy.benchmarks.cpu import full_size_checkpoint
    from img_deploy.benchmarks.on_gpu.network import FULL, GRAPHS, Served, draw_feeds, random_network
    from img_deploy.features.kinds import kind_named
    from img_deploy.model.graphs import PAIR
    from img_deploy.runtime.backends.choose import Choice
    from img_deploy.runtime.backends.device_run import stays
    from img_deploy.runtime.backends.protocol import on_host
    from img_deploy.runtime.backends.triton.captured_run import StaticRun
    from img_deploy.runtime.inputs import InputRules
    from img_deploy.runtime.predictor import Predictor

    class NullRun(StaticRun):
        """A run on a device that takes no time: its outputs are zeros."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            for each in self.encoded:
                each.rows = each.half  # a copy to itself is none
            self.back.zero_()
            shapes = [self.bucket.shape(each) for each in self.spec.outputs if stays(each)]
            self._zeros = torch.zeros((len(shapes), *shapes[0]), dtype=self.packed.storage) if shapes else None

        def launch(self) -> torch.Tensor | None:
            return self._zeros

    served = Served(random_network(FULL), "fp16", "cpu", NullRun)
    vocabulary = full_size_checkpoint().vocabulary
    assert vocabulary is not None
    rules = InputRules(kind_named("i3d"), kind_named("panns"), None, vocabulary, CLIPS, 2 * WORDS, 16)
    bundle: Any = SimpleNamespace(identity="", folder="")
    predictor = Predictor(bundle, rules, Choice(served.backend, "a device that takes no time"))
    random = np.random.default_rng(0)
    clips, sound = (random.standard_normal((CLIPS, width), np.float32) for width in (1024, 2048))
    sentence = " ".join(vocabulary.words[:WORDS])
    video, query = predictor.encode_video(clips, sound), predictor.encode_query(sentence)
    there = [torch.empty(one.shape, dtype=torch.float16) for one in (clips, sound)]

    def rounding() -> None:
        for held, given in zip(there, (clips, sound), strict=True):
            held.copy_(torch.from_numpy(given))

    yield ROUNDING, rounding
    yield ONE, lambda: predictor.answer(clips, sound, sentence, duration=30.0)
    yield APART[0], lambda: predictor.encode_video(clips, sound)
    yield APART[1], lambda: predictor.encode_query(sentence)
    yield APART[2], lambda: predictor.ground(video, query, durations=30.0)
    one, many = (served(draw_feeds(FULL, (CLIPS if n == 1 else 64,) * n, CLIPS if n == 1 else 64)) for n in (1, CROWD))
    many = {name: on_host(values) for name, values in many.items()}

    def buffers(graph: str, feeds: Any) -> Callable[[], object]:
        # As the stages give them: the rows of each sample.
        rows = {name: values if name.endswith("mask") else list(values) for name, values in feeds.items()}
        return lambda: served.backend.run(graph, rows)

    yield CHECKS, lambda: rules.video_features(clips, sound, "", "video")
    yield WORD_ROWS, lambda: rules.query(sentence)
    yield "buffers of the pair", buffers(PAIR, one)
    for graph in GRAPHS:
        yield f"buffers of the {graph.replace('_', ' ')}", buffers(graph, one)
    for graph in GRAPHS:
        yield f"{CROWD} pairs: buffers of the {graph.replace('_', ' ')}", buffers(graph, many)


METHOD = (
    "One pair of 128 clips (1024 and 2048 wide, float32) and 10 words, full size, fp16 storage; 64 pairs of 64 clips. "
    "Microseconds: medians and the least. Undisturbed is what lies between two looks that found the machine fast: "
    "the same steps of the interpreter within a tenth of their least time. A guest of another machine is slowed by "
    "neighbours that it does not see, to half its speed for seconds on end. `answer` takes features and a sentence in "
    "one run; the three calls of the predictor after it keep what they encode, and answer one pair one by one. "
    "`buffers` are the backend's run of a graph on a device that takes no time: padding to its bucket, filling, "
    "cutting. Encoded clips and words stay on the device for one pair, and lie in host memory for 64. The device "
    "decodes the spans, and for `answer` looks at the values of the features. The host rounds them to fp16 on their "
    "way to it, on the threads named above, all else on one: `the features rounded once` is that alone."
)


def page(result: Document) -> str:
    """``host.md`` of what ``host.json`` holds."""
    times = result["microseconds"]
    whole, share = times[ONE]["quiet"], times[ONE]["quiet_share"]
    verdict = "met" if whole <= WANTED_US else "missed"
    rows = []
    for name, parts in PARTS.items():
        rows.append((f"**{name}**", *_cells(times[name])))
        rows += [(part, *_cells(times[part])) for part in parts]
        rows.append(("rest", f"{times[name]['quiet'] - sum(times[part]['quiet'] for part in parts):.0f}", "", "", ""))
    apart = {figure: sum(times[name][figure] for name in APART) for figure in ("quiet", "p50", "low")}
    apart["quiet_share"] = min(times[name]["quiet_share"] for name in APART)
    rows.append((" + ".join(APART), *_cells(apart)))
    rows.append((ROUNDING, *_cells(times[ROUNDING])))
    lines = head("What the host adds on a GPU", result["command"], "host.json")
    busy = f"other programs kept {result['neighbours']} cores busy meanwhile"
    lines += [*origin(result["where"], busy), "", METHOD, ""]
    lines += [f"Wanted for one pair: at most {WANTED_US:.0f}; measured {whole:.0f}: {verdict}."]
    every = times[ONE]["p50"]
    lines += [f"That is while nothing slowed the machine, {share:.0%} of the calls; {every:.0f} of all.", ""]
    figures = ("p50 us, undisturbed", "share of calls", "p50 us, all", "least us")
    lines += table(("one pair", *figures), rows)
    crowd = [(name, *_cells(each)) for name, each in times.items() if "pairs:" in name]
    return "\n".join(lines + table((f"{CROWD} pairs", *figures), crowd))


def _cells(times: dict[str, float]) -> tuple[str, str, str, str]:
    return f"{times['quiet']:.0f}", f"{times['quiet_share']:.0%}", f"{times['p50']:.0f}", f"{times['low']:.0f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write ``host.json`` and ``host.md``."""
    from img_deploy.hardware import OtherPrograms

    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each part (default 1)")
    parser.add_argument("--threads", type=int, help="of PyTorch, which round features (default: as many as it takes)")
    given = parser.parse_args(arguments)
    command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
    import torch

    try:
        if given.threads is not None:
            use_threads(given.threads)
        where, neighbours = environment(threads=torch.get_num_threads()), OtherPrograms()
        found = measure(given.seconds)
        result = {"command": command, "where": where, "microseconds": found, "neighbours": neighbours.cores()}
        for path in write_results(given.out, "host", result, page):
            print(f"wrote {path}", file=sys.stderr)
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
