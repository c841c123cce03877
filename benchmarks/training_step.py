"""Speed of a training step on the CPU: ``python -m img_deploy.benchmarks.training_step --out benchmarks/results``.

Synthetic videos of one length and of real feature widths are trained on by the very loop of ``img-deploy train``;
beside it, single steps are timed in turns with steps computed the published way.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from img_deploy.benchmarks.environment import environment, use_threads
from img_deploy.benchmarks.page import Document, head, origin, spread, table, write_results
from img_deploy.benchmarks.timing import Effort, interleaved, paired_ratio, summarize
from img_deploy.errors import ImgDeployError, VerificationError
from img_deploy.hardware import OtherPrograms

COMMAND = "python -m img_deploy.benchmarks.training_step"
OURS, PUBLISHED = "this project", "published way"
TOLERANCE = 2e-4
"""Largest relative difference of the loss with which the published way counts as the same network."""
VIDEOS = 80
"""Of the set that is trained on."""
WARM_UP = 5
"""Steps of a loop that are not counted."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a step, and what the paper's own code was measured at elsewhere."""

    dim: int
    batch: int
    clips: int
    anchor: float
    """Samples per second of the paper's own code, on two cores of another machine."""

    def __str__(self) -> str:
        return f"D = {self.dim}, B = {self.batch}, L = {self.clips}"


SHAPES = (Shape(32, 16, 40, 25.0), Shape(32, 64, 40, 72.0), Shape(128, 16, 64, 11.0))


def measure(shape: Shape, work: Path, effort: Effort, loop_steps: int, threads: int) -> dict[str, Any]:
    """All figures of one shape, as plain values."""
    from img_deploy.benchmarks.operator_profile import profile_operators
    from img_deploy.training.memory import keep_freed_memory

    keep_freed_memory()
    use_threads(threads)
    config, batches, new = _material(shape, work, threads)
    neighbours = OtherPrograms()
    runs = {OURS: _step(new(), config, batches, False), PUBLISHED: _step(new(), config, batches, True)}
    check_same(runs, shape)
    times = interleaved(runs, batches.epoch_steps, effort)
    whole = {name: [sum(stages.values()) for stages in rounds] for name, rounds in times.items()}
    loop = _loop(config, work / f"run-{shape.dim}-{shape.batch}", loop_steps, batches.epoch_steps)
    busy = neighbours.cores()
    step = runs[OURS]
    operators = {name: asdict(profile_operators(partial(run, 0))) for name, run in runs.items()}
    return {
        "shape": asdict(shape),
        "bare": {name: summarize(values).as_dict() for name, values in whole.items()},
        "stages": {
            name: {stage: summarize([one[stage] for one in rounds]).p50 for stage in rounds[0]}
            for name, rounds in times.items()
        },
        "ratio": paired_ratio(whole[PUBLISHED], whole[OURS]).as_dict(),
        "loop": summarize([wall for wall, _ in loop]).as_dict(),
        "loop_cpu": summarize([cpu for _, cpu in loop]).as_dict(),
        "parameters": sum(p.numel() for p in step.network.parameters()),
        "operators": operators,
        "neighbours": busy,
    }


def check_same(runs: dict[str, Any], shape: Shape) -> None:
    """Both ways give one loss without dropout. Raises VerificationError."""
    import torch

    found = {}
    for name, run in runs.items():
        kept = _set_dropout(run.network, 0.0)
        with run.around(), torch.enable_grad():
            found[name] = float(run.loss(run.batches[0]).detach())
        _set_dropout(run.network, kept)
    if not abs(found[OURS] - found[PUBLISHED]) <= TOLERANCE * abs(found[OURS]):
        raise VerificationError(f"{shape}: got losses {found}, expected equal ones; the times are of no worth")


def _set_dropout(network: Any, p: float) -> float:
    kept = 0.0
    for module in network.modules():
        for name in ("p", "dropout"):
            if isinstance(getattr(module, name, None), float):
                kept = getattr(module, name)
                setattr(module, name, p)
    return kept


def _material(shape: Shape, work: Path, threads: int) -> tuple[Any, Any, Any]:
    from img_deploy.training.config import TrainConfig
    from img_deploy.training.datasets import prepare
    from img_deploy.training.loader import StepBatches
    from img_deploy.training.synthetic.config import SyntheticConfig
    from img_deploy.training.synthetic.writer import write_synthetic
    from img_deploy.training.train import new_network

    data = work / f"clips{shape.clips}"
    if not data.exists():
        write_synthetic(data, SyntheticConfig(videos=VIDEOS, min_clips=shape.clips, max_clips=shape.clips))
    config = TrainConfig(
        task="charades", features="i3d", data=str(data), variant="glove", dim=shape.dim,
        heads=4 if shape.dim < 64 else 8, batch_size=shape.batch, steps=100_000, accelerator="cpu", threads=threads,
    )  # fmt: skip
    material = prepare(config)
    batches = StepBatches(material.data, material.train, config.batch_size, config.seed)
    return config, batches, lambda: new_network(config, material.data)


def _step(network: Any, config: Any, batches: Any, published: bool) -> Any:
    from img_deploy.benchmarks.bare_step import BareStep, published_step

    return published_step(network, config, batches) if published else BareStep(network, config, batches)


def _loop(config: Any, out: Path, steps: int, epoch_steps: int) -> list[tuple[float, float]]:
    """Milliseconds from step to step of a real run: loading, Lightning and logs included, evaluations not.

    By the clock, and of CPU time over all threads: the second does not grow when other programs want the cores.
    """
    from img_deploy.training.train import train

    stamps: list[tuple[float, float, bool]] = []

    def listen(at: Any) -> None:
        stamps.append((time.perf_counter(), time.process_time(), at.scores is not None))

    steps += WARM_UP
    # One evaluation per epoch and one at the end; the first stamp has no interval.
    steps_in_all = steps + steps // (epoch_steps - 1) + 3
    run = config.model_copy(update={"steps": steps_in_all, "evaluations": 1, "save_every": 10**6})
    train(run, out, listener=listen)
    # An evaluation comes between a step and its stamp.
    spent = [
        (1e3 * (late - early), 1e3 * (late_cpu - early_cpu))
        for (early, early_cpu, _), (late, late_cpu, evaluated) in pairwise(stamps)
        if not evaluated
    ]
    return spent[WARM_UP:steps]


ANCHOR_TEXT = (
    "- Anchor: the paper's own code at the same shape, measured elsewhere on two cores. It was not run beside these "
    "figures."
)
LOOP_TEXT = (
    "From step to step: loading, Lightning and logs included, evaluations not. *By CPU time*: all threads added up, as "
    "if on one core of their own; by the clock the step also waits for other programs. Samples/s are of the median "
    "step."
)
LOOP_HEAD = (
    *("shape", "ms by the clock, p50", "least", "ms of CPU time, p50", "samples/s by the clock", "at the least"),
    *("by CPU time", "anchor", "times anchor, by the clock", "by CPU time"),
)
STEP_TEXT = (
    "Single steps without Lightning, in turns (A B, B A, ...), both from the same weights; their losses were equal "
    "before the timing. *Published way*: packed `nn.GRU`, keys and values of slots, PyTorch's own linear layers, "
    "depthwise convolution and random numbers, AdamW tensor by tensor; all else is this project's, so it is no "
    "measurement of the paper's code. "
    "The ratio is the median over rounds of its time over ours in the same round, in brackets its quartiles."
)
STEP_HEAD = (
    *("shape", "version", "p50 ms", "load", "forward", "backward", "update", "loading, share", "operator calls"),
    "ratio",
)
KIND_TEXT = "Shares of the time inside operators of one step of this project (PyTorch's profiler), and how many calls."


def page(result: Document) -> str:
    """``training_step.md`` of what ``training_step.json`` holds."""
    cases = result["cases"]
    busy = ", ".join(str(case["neighbours"]) for case in cases)
    busy = f"other programs kept {busy} cores busy meanwhile (by shape): times are too long by as much"
    data = (
        "Data: synthetic, I3D (1024) and PANNs (2048) features, all videos of one length, GloVe variant; fp32; all "
        "three heads, every loss, clipping and AdamW"
    )
    lines = head("Speed of a training step on a CPU", result["command"], "training_step.json")
    lines += origin(result["where"], busy, data)
    lines += [
        ANCHOR_TEXT,
        "",
        "## The loop of `img-deploy train`",
        "",
        LOOP_TEXT,
        "",
        *table(LOOP_HEAD, map(_loop_row, cases)),
    ]
    rows = [row for case in cases for row in _step_rows(case)]
    lines += ["## Step by step, beside the published way", "", STEP_TEXT, "", *table(STEP_HEAD, rows)]
    kinds = [(kind, *(_kind_cell(case, kind) for case in cases)) for kind in cases[0]["operators"][OURS]["share"]]
    lines += ["## Where the time goes", "", KIND_TEXT, "", *table(("kind", *map(_name, cases)), kinds)]
    slowest = [(case, list(case["operators"][OURS]["top"].items())[:4]) for case in cases]
    told = [f"{_name(case)}: " + ", ".join(f"`{name}` {share:.0%}" for name, share in top) for case, top in slowest]
    return "\n".join([*lines, f"The slowest operators: {'; '.join(told)}."]) + "\n"


def _name(case: Document) -> str:
    return str(Shape(**case["shape"]))


def _loop_row(case: Document) -> list[str]:
    wall, cpu, shape = case["loop"], case["loop_cpu"], Shape(**case["shape"])
    speeds = [1e3 * shape.batch / time for time in (wall["p50"], wall["low"], cpu["p50"])]
    cells = [f"{value:.0f}" for value in (wall["p50"], wall["low"], cpu["p50"], *speeds)]
    return [str(shape), *cells, f"{shape.anchor:g}", *(f"{speeds[i] / shape.anchor:.1f}" for i in (0, 2))]


def _step_rows(case: Document) -> Iterator[list[str]]:
    for name, stages in case["stages"].items():
        share = stages["load"] / sum(stages.values())
        cells = [_name(case), name, f"{case['bare'][name]['p50']:.0f}", *(f"{value:.1f}" for value in stages.values())]
        calls = f"{case['operators'][name]['calls']:,}"
        yield [*cells, f"{share:.1%}", calls, spread(case["ratio"]) if name == OURS else ""]


def _kind_cell(case: Document, kind: str) -> str:
    own = case["operators"][OURS]
    return f"{own['share'].get(kind, 0.0):.0%} ({own['kernels'].get(kind, 0):,})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and write ``training_step.json`` and ``training_step.md``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--seconds", type=float, default=20.0, help="of paired steps per shape (default 20)")
    parser.add_argument("--loop-steps", type=int, default=60, help="steps of the real loop per shape (default 60)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--shapes", type=int, nargs="+", default=[1, 2, 3], help="which of the three (default all)")
    given = parser.parse_args(arguments)
    try:
        where = environment(given.threads)
        with TemporaryDirectory(prefix="img-deploy-training-") as work:
            cases = []
            for shape in [SHAPES[number - 1] for number in given.shapes]:
                print(shape, file=sys.stderr, flush=True)
                cases.append(measure(shape, Path(work), Effort(given.seconds), given.loop_steps, given.threads))
        words = sys.argv[1:] if arguments is None else arguments
        result = {"command": " ".join([COMMAND, *words]), "where": where, "cases": cases}
        write_results(given.out, "training_step", result, page)
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
