"""Speed on an NVIDIA GPU, in one offline command: ``python -m img_deploy.benchmarks.gpu --out benchmarks/results``.

Checks every kernel in every storage dtype against float64, then times each beside its eager and compiled reference and
below the card's own ceilings, then the whole network: as published, under torch.compile, and ours. Needs torch, Triton
and NumPy. Ends within ``--seconds``; what there was no time for is listed. Writes ``gpu.json`` and ``gpu.md`` after
every case. ``--cpu`` takes the same steps at tiny sizes under Triton's interpreter and measures nothing.

Exit code 0: everything that ran is right; 1: a check failed or a step broke; 2: no GPU, or wrong input.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from img_deploy.benchmarks.environment import environment, headline
from img_deploy.benchmarks.on_gpu.children import Budget
from img_deploy.benchmarks.on_gpu.goals import goals
from img_deploy.benchmarks.on_gpu.page import page
from img_deploy.benchmarks.on_gpu.plan import STEPS, Stage, carry_out, failures, name_of, stages
from img_deploy.benchmarks.on_gpu.roofline import position
from img_deploy.benchmarks.on_gpu.store import Document, Store, entries
from img_deploy.errors import ImgDeployError, InputError
from img_deploy.hardware import cuda_devices, gpus
from img_deploy.kernels.dispatch import OP_NAMES

COMMAND = "python -m img_deploy.benchmarks.gpu"
SECONDS = 420.0
NO_GPU = 2


def why_not_here() -> str | None:
    """Why nothing can be measured on this machine; None where it can."""
    if not cuda_devices():
        return "no NVIDIA GPU"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} cannot use the GPU"
    return None


def head(kind: str, command: str, seconds: float) -> Document:
    """What a run is told by, before it begins."""
    import torch

    where = environment()
    found = [{"name": g.name, "driver": g.driver, "compute_capability": g.compute_capability} for g in gpus()]
    where["machine"]["gpus"] = found
    return {"command": command, "kind": kind, "budget": seconds, "where": {**where, "cuda": torch.version.cuda}}


def chosen_stages(kind: str, steps: Sequence[str], ops: Sequence[str]) -> list[Stage]:
    """The stages of these steps over these ops; all of them without any.

    Raises InputError where a step was left out without which another refuses to time anything.
    """
    needs = {"kernels": "checks", "compiled_kernels": "checks", "network": "accuracy"}
    missing = sorted({needs[step] for step in steps if step in needs} - set(steps))
    if missing:
        raise InputError(f"--only: got {' '.join(steps)}, which need {' '.join(missing)} beside them")
    return [stage for stage in stages(kind, ops or OP_NAMES) if not steps or stage.step in steps]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    given = _parser().parse_args(arguments)
    why = None if given.cpu else why_not_here()
    if why:
        print(f"{COMMAND}: {why} on this machine; give --cpu to run what a CPU can, without figures", file=sys.stderr)
        return NO_GPU
    kind = "cpu" if given.cpu else "cuda"
    seconds = given.seconds or (SECONDS if kind == "cuda" else 3600.0)
    budget = Budget(seconds)
    try:
        chosen = chosen_stages(kind, given.only, given.ops)
        command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
        store = Store(given.out, head(kind, command, seconds), page)
        carry_out(kind, chosen, budget, store, _tell)
        store.put(complete=True, seconds=round(budget.spent(), 1), **_derived(store.document))
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return _sum_up(store.document, given.out)


def _derived(document: Document) -> Document:
    """What follows from the figures: the goals, and where each kernel stands below the ceilings."""
    found = [(entry, position(entry["record"], entry["dtype"], document)) for entry in _timed(document)]
    positions = [{"case": name_of(entry), **asdict(one)} for entry, one in found if one is not None]
    return {"goals": [goal.as_dict() for goal in goals(document)], "roofline": positions}


def _timed(document: Document) -> list[dict[str, Any]]:
    return list(entries(document, "kernels", outcome="done"))


def _sum_up(document: dict[str, Any], out: Path) -> int:
    wrong = failures(document)
    for line in wrong:
        _tell(f"FAILED {line}")
    _tell(headline(document["where"]))
    _tell(f"wrote {out / 'gpu.json'} and {out / 'gpu.md'}")
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=None,
        help=f"time for all of it (default {SECONDS:g}; an hour with --cpu)",
    )
    parser.add_argument("--cpu", action="store_true", help="run at tiny sizes on a CPU; writes no figure")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=[], metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--ops", nargs="+", choices=OP_NAMES, default=[], metavar="OP", help=", ".join(OP_NAMES))
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
