"""Speed on an NVIDIA GPU, in two parts of a few minutes: ``python -m img_deploy.benchmarks.gpu --part A``, then ``B``.

A: every kernel in every dtype against float64, the network's accuracy, its latency, the backend that serves answers,
and what a run spends its time on. B: ``torch.compile`` and cuDNN beside it, a training step, kernels one by one, other
sizes, a race check. What matters most comes first, and each result is on disk as soon as there is one:
``gpu_<part>.jsonl``, and ``gpu.md`` made of both. Needs torch, Triton and NumPy.

``--prepare FOLDER`` compiles the kernels beforehand, on any machine; ``--kernels FOLDER`` uses them. ``--cpu`` takes
every step at tiny sizes under Triton's interpreter and measures nothing.

Exit code 0: everything that ran is right; 1: a check failed or a step broke; 2: no GPU, or wrong input.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.on_gpu.children import run_in_children
from img_deploy.benchmarks.on_gpu.goals import failures, goals
from img_deploy.benchmarks.on_gpu.pages import goal_row, page
from img_deploy.benchmarks.on_gpu.prepare import compiled, prepare, settle
from img_deploy.benchmarks.on_gpu.record import Results
from img_deploy.errors import ImgDeployError, InputError
from img_deploy.files import write_text
from img_deploy.hardware import why_no_gpu
from img_deploy.kernels.dispatch import OP_NAMES

COMMAND = "python -m img_deploy.benchmarks.gpu"
CHILD = (sys.executable, "-m", "img_deploy.benchmarks.on_gpu.steps")
SANITIZER = "compute-sanitizer"


@dataclass(frozen=True)
class Step:
    """One step of a part, for at most so many seconds."""

    name: str
    most: float
    apart: bool = False
    """Each op's cases in processes of their own, all at once: nothing is timed in them, and kernels compile."""


PARTS = {
    "A": (
        *(Step("checks", 150, apart=True), Step("accuracy", 60), Step("network", 60), Step("served", 40)),
        Step("profile", 30),
    ),
    "B": (
        *(Step("compiled", 140), Step("gru", 40), Step("training", 60), Step("kernels", 50), Step("sizes", 40)),
        Step("race", 60),
    ),
}
SECONDS = {"A": 240.0, "B": 300.0}


def run_part(part: str, out: Path, device: str, seconds: float, command: str, kernels: Path | None) -> None:
    """Run the steps of a part while there is time. Raises InputError where ``out`` cannot be written."""
    begun = time.monotonic()
    results = results_of(out, part)
    extra = {"TRITON_INTERPRET": "0"}
    try:
        if kernels is not None:
            extra["TRITON_CACHE_DIR"] = str(kernels.resolve())
            _tell(settle(kernels) or f"{kernels}: {len(compiled(kernels))} kernels are compiled already")
        results.begin({"part": part, "command": command, "device": device, "where": environment()})
        for step in PARTS[part]:
            left = seconds - (time.monotonic() - begun)
            _tell(f"{seconds - left:4.0f} s: {step.name}, at most {min(step.most, left):.0f} s")
            _run_step(step, device, results, min(step.most, left), extra)
            _write_page(out)
        results.end(time.monotonic() - begun)
        _write_page(out)
        if kernels is not None:
            _tell(f"{kernels}: {len(compiled(kernels))} kernels now")
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out") from None


def _run_step(step: Step, device: str, results: Results, seconds: float, extra: dict[str, str]) -> None:
    if device == "cpu":
        from img_deploy.benchmarks.on_gpu.steps import run_step

        run_step(step.name, device, results)
        return
    command: tuple[str, ...] = (*CHILD, step.name, device, str(results.path))
    if step.name == "race":
        if shutil.which(SANITIZER) is None:
            results.add(step.name, {}, "skipped", why=f"{SANITIZER} is not on PATH")
            return
        command = (SANITIZER, "--tool", "racecheck", "--error-exitcode", "9", "--print-limit", "5", *command)
    if not step.apart:
        run_in_children(command, step.name, results, seconds, extra)
        return
    with ThreadPoolExecutor(len(OP_NAMES)) as pool:
        list(pool.map(lambda op: run_in_children((*command, op), step.name, results, seconds, extra, op), OP_NAMES))


def results_of(out: Path, part: str) -> Results:
    return Results(out / f"gpu_{part.lower()}.jsonl")


def _write_page(out: Path) -> None:
    write_text(out / "gpu.md", page([results_of(out, part) for part in PARTS]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    given = _parser().parse_args(arguments)
    if given.prepare is not None:
        _tell(f"{given.prepare}: {prepare(given.prepare, _tell)} kernels")
        return 0
    why = None if given.cpu else why_no_gpu()
    if why:
        print(f"{COMMAND}: {why} on this machine; give --cpu to run what a CPU can, without figures", file=sys.stderr)
        return InputError.exit_code
    device = "cpu" if given.cpu else "cuda"
    if given.cpu:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, by the first step
    command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
    try:
        for part in given.part:
            run_part(part, given.out, device, given.seconds or SECONDS[part], command, given.kernels)
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    entries = [entry for part in PARTS for entry in results_of(given.out, part).entries()]
    for goal in goals(entries):
        _tell(": ".join((goal.verdict, " | ".join(goal_row(goal)[:3]))))
    wrong = failures(entries)
    for line in wrong:
        _tell(f"FAILED {line}")
    _tell(f"wrote {given.out / 'gpu.md'}")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    summary, *rest = (__doc__ or "").split("\n\n")
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description=summary,
        epilog="\n\n".join(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", nargs="+", choices=tuple(PARTS), default=["A", "B"], help="default A B")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--seconds", type=_seconds, help="time for each part (default 240 for A, 300 for B)")
    parser.add_argument("--cpu", action="store_true", help="run at tiny sizes on a CPU; writes no figure")
    parser.add_argument("--kernels", type=Path, help="folder that --prepare filled; Triton's own cache by default")
    parser.add_argument("--prepare", type=Path, metavar="FOLDER", help="compile the kernels into it, and leave")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return value


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
