"""The steps and their cases; ``python -m img_deploy.benchmarks.on_gpu.steps STEP DEVICE FILE [OP]`` runs one of them.

On a GPU a step runs in a process of its own, so that a kernel that breaks the CUDA context costs its own case: the next
process goes on after the cases that were begun. Where standard input ends, the parent has ended, and so does the step.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from img_deploy.benchmarks.on_gpu.children import GO_ON
from img_deploy.benchmarks.on_gpu.record import BEGUN, DONE, FAILED, Case, Results
from img_deploy.errors import one_line
from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.dtypes import PRECISIONS

SINGLE, CROWD = {"batch": 1, "clips": 128}, {"batch": 64, "clips": 64}
"""Sizes that the goals speak of."""
HALF_FIRST = ("fp16", "fp32", "bf16")
VERSIONS = (("ours", "fp16"), ("eager", "fp16"), ("eager", "fp32"), ("ours", "fp32"), ("ours", "bf16"))
OTHER_SIZES = ((1, 64), (8, 64), (8, 128), (64, 128), (256, 64), (256, 128))
CHECKED = {
    "cuda": (((1,), 1), ((3, 0, 31), 31), ((128, 77, 1), 128), (tuple(range(80)), 64)),
    "cpu": (((3, 0), 3),),
}
"""(real clips of each sample, clips): one sample, few and many, for which kernels differ; some fully masked."""
RACED = {"cuda": (((17,), 17), (tuple(range(1, 10)) * 9, 9)), "cpu": (((4, 1), 4),)}
"""(real clips of each sample, clips) of the race check."""
TINY_SIZE = {"batch": 2, "clips": 4}
ON_CPU = {"op": ("global_fusion",), "version": ("ours", "eager", "torch.compile")}


def cases(step: str) -> list[Case]:
    """All cases of a step on a GPU, what the goals speak of first."""
    return [dict(case) for case in _CASES[step]()]


def cases_on_cpu(step: str) -> list[Case]:
    """One tiny case of every kind of a step: all ops are checked, one is timed, one way of compiling is traced."""
    found: dict[str, Case] = {}
    for case in cases(step):
        tiny = case | {name: size for name, size in TINY_SIZE.items() if name in case}
        kind = {name: value for name, value in tiny.items() if name != "precision"}
        if step == "checks" or all(case.get(name, some[0]) in some for name, some in ON_CPU.items()):
            found.setdefault(str(kind), tiny)
    return list(found.values())


def _network() -> Iterator[Case]:
    for size, (version, precision) in product((SINGLE, CROWD), VERSIONS):
        yield {"version": version, "precision": precision, **size}


def _sizes() -> Iterator[Case]:
    for (batch, clips), version in product(OTHER_SIZES, ("ours", "eager")):
        yield {"version": version, "precision": "fp16", "batch": batch, "clips": clips}


_CASES: dict[str, Callable[[], Any]] = {
    "checks": lambda: ({"op": op, "precision": each} for each, op in product(HALF_FIRST, OP_NAMES)),
    "accuracy": lambda: ({"precision": each} for each in HALF_FIRST),
    "network": _network,
    "served": lambda: ({"precision": "fp16", **size} for size in (SINGLE, CROWD)),
    "profile": lambda: ({"precision": "fp16", **size} for size in (SINGLE, CROWD)),
    "compiled": lambda: ({"version": "torch.compile", "precision": "fp16", **SINGLE},),
    "gru": lambda: ({"precision": each, **size} for each, size in product(PRECISIONS[1::-1], (SINGLE, CROWD))),
    "training": lambda: ({"batch": batch, "clips": 64} for batch in (16, 64)),
    "kernels": lambda: ({"op": op, "precision": "fp16", **size} for size, op in product((SINGLE, CROWD), OP_NAMES)),
    "sizes": _sizes,
    "race": lambda: ({"op": op, "precision": each} for each, op in product(HALF_FIRST, OP_NAMES)),
}


def _run_of(step: str, device: str) -> Callable[[Case], Any]:
    """What runs one case; sets PyTorch up for all of them."""
    import torch

    from img_deploy.benchmarks.on_gpu import checks, speed, training
    from img_deploy.benchmarks.on_gpu.clock import Clock
    from img_deploy.kernels.interpreted import mend_interpreter

    torch.manual_seed(0)
    # TF32 is no float32: as when the kernels serve answers.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if device == "cpu":
        mend_interpreter()
    if device == "cpu" or step == "checks":
        torch.set_num_threads(1)  # tiny sizes, or a process for each op: more threads would wait for each other
    clock = Clock(device)
    run: dict[str, Callable[..., Any]] = {
        "checks": checks.check_op,
        "accuracy": checks.check_network,
        "served": speed.time_served,
        "profile": speed.profile_network,
        "gru": speed.time_gru,
        "training": training.time_training,
        "kernels": speed.time_ops,
        "race": speed.run_kernel_once,
    }
    chosen = run.get(step, speed.time_network)
    return lambda case: chosen(**case, clock=clock)


def run_step(step: str, device: str, results: Results, op: str | None = None) -> int:
    """Run the cases of a step that nobody has begun, of one op or of all, and add each to the results.

    Returns:
        The exit code: ``GO_ON`` after an error on a GPU, which may break the cases that follow in this process.
    """
    begun = [entry.case for entry in results.entries() if entry.step == step]
    run: Callable[[Case], Any] | None = None
    for case in cases(step) if device == "cuda" else cases_on_cpu(step):
        if case in begun or op not in (None, case.get("op")):
            continue
        results.add(step, case, BEGUN)
        try:
            run = run or _run_of(step, device)
            results.add(step, case, DONE, run(case))
        except Exception as error:  # compilers and drivers have errors of their own
            results.add(step, case, FAILED, why=f"{type(error).__name__}: {one_line(error, 300)}")
            if device == "cuda":
                return GO_ON
    return 0


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(run_step(sys.argv[1], sys.argv[2], Results(Path(sys.argv[3])), *sys.argv[4:]))
