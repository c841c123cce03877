"""What is measured, in which order, and for how long at most: what the goals are about comes first."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from img_deploy.benchmarks.on_gpu.children import Budget, run_step
from img_deploy.benchmarks.on_gpu.goals import missed_shapes
from img_deploy.benchmarks.on_gpu.store import Document, Store, entries
from img_deploy.kernels.dispatch import OP_NAMES

Case = dict[str, Any]
PRECISIONS = ("fp16", "fp32", "bf16")
WAYS = ("one graph", "own graphs")
FIRST = ((1, 128), (64, 64))
"""(batch, clips) that the goals speak of."""
GRID = tuple(product((1, 8, 64, 256), (32, 64, 128)))
VERSIONS = (("ours", "fp16"), ("eager", "fp32"), ("eager", "fp16"), ("ours", "fp32"), ("ours", "bf16"))
STEPS = (
    *("ceilings", "checks", "accuracy", "network", "compiled_network", "recurrence", "kernels", "compiled_kernels"),
    "profile",
)
"""Names of all steps, as ``steps.STEPS`` has them."""
Run = Callable[..., None]


@dataclass(frozen=True)
class Stage:
    """One step over some cases, for at most ``cap`` seconds."""

    step: str
    cases: tuple[Case, ...]
    cap: float
    apart: bool = False
    """Every op's cases in a child of their own, all at once: nothing is timed in them."""


def stages(kind: str, ops: Sequence[str] = OP_NAMES) -> list[Stage]:
    """All stages, in order, without the profiles of missed goals."""
    return _on_gpu(ops) if kind == "cuda" else _on_cpu(ops)


def _on_gpu(ops: Sequence[str]) -> list[Stage]:
    rest = [size for size in GRID if size not in FIRST]
    single, crowd = (1, 128), (64, 128)
    return [
        Stage("ceilings", _ceilings(), 30),
        Stage("checks", _checks(ops), 120, apart=True),
        Stage("accuracy", tuple({"precision": each} for each in PRECISIONS), 60),
        Stage("network", _network(FIRST), 60),
        Stage("recurrence", _recurrence(ops, (1, 64), 128, PRECISIONS), 60),
        Stage("compiled_network", _compiled(FIRST[:1]), 130),
        Stage("kernels", _kernels((single, crowd), ops, ("fp16",)), 50),
        Stage("network", _network(rest, VERSIONS[:2]), 60),
        Stage("compiled_kernels", _kernels((single,), ops, ("fp16",), compiled=True), 70),
        Stage("kernels", _kernels((single, crowd), ops, ("fp32", "bf16")), 50),
        Stage("network", _network(rest, VERSIONS[2:]), 60),
        Stage("compiled_network", _compiled((FIRST[1], *rest)), 600),
    ]


def _on_cpu(ops: Sequence[str]) -> list[Stage]:
    size = (1, 4)
    return [
        Stage("ceilings", _ceilings(), 900),
        Stage("checks", _checks(ops), 900),
        Stage("accuracy", tuple({"precision": each} for each in PRECISIONS), 900),
        Stage("network", _network((size,)), 900),
        Stage("compiled_network", _compiled((size,)), 900),
        Stage("recurrence", _recurrence(ops, (2,), 4, ("fp16",)), 900),
        Stage("kernels", _kernels((size,), ops, PRECISIONS), 900),
        Stage("compiled_kernels", _kernels((size,), ops, ("fp32",), compiled=True), 900),
        Stage("profile", ({"version": "ours", "precision": "fp16", "batch": 1, "clips": 2},), 900),
    ]


def _ceilings() -> tuple[Case, ...]:
    return tuple({"name": name} for name in ("copy", "fp32", "fp16", "bf16"))


def _checks(ops: Iterable[str]) -> tuple[Case, ...]:
    return tuple({"op": op, "dtype": dtype} for op in ops for dtype in PRECISIONS)


def _network(sizes: Iterable[tuple[int, int]], versions: Sequence[tuple[str, str]] = VERSIONS) -> tuple[Case, ...]:
    return tuple(
        {"version": version, "precision": precision, "batch": batch, "clips": clips}
        for (batch, clips), (version, precision) in product(sizes, versions)
    )


def _compiled(sizes: Iterable[tuple[int, int]]) -> tuple[Case, ...]:
    return tuple(
        {"version": way, "precision": "fp16", "batch": batch, "clips": clips}
        for (batch, clips), way in product(sizes, WAYS)
    )


def _recurrence(ops: Sequence[str], batches: Sequence[int], clips: int, dtypes: Sequence[str]) -> tuple[Case, ...]:
    if "bigru" not in ops:
        return ()
    from img_deploy.benchmarks.on_gpu.kernel_inputs import FORMS

    return tuple(
        {"form": form, "batch": batch, "clips": clips, "dtype": dtype}
        for dtype, batch, form in product(dtypes, batches, FORMS["bigru"])
    )


def _kernels(
    sizes: Sequence[tuple[int, int]], ops: Sequence[str], dtypes: Sequence[str], compiled: bool = False
) -> tuple[Case, ...]:
    from img_deploy.benchmarks.on_gpu.kernel_inputs import cases

    found = [asdict(case) for case in cases(sizes, dtypes) if case.op in ops]
    if compiled:
        # The compiler spells the GRU's loop out, a dozen operators per clip: shorter, and last.
        found = [case | {"clips": min(case["clips"], 32)} if case["op"] == "bigru" else case for case in found]
        found.sort(key=lambda case: case["op"] == "bigru")
    return tuple(found)


def carry_out(
    kind: str, chosen: Sequence[Stage], budget: Budget, store: Store, tell: Callable[[str], None], run: Run = run_step
) -> None:
    """Run the stages while there is time, and the profiles of missed goals as soon as they are known.

    A kernel or a precision of the network that failed its check, or was not checked, is not timed.
    """
    # By then all that the goals speak of was measured, if it was chosen.
    told = next((stage for stage in chosen if stage.step == "compiled_network"), chosen[-1])
    for stage in chosen:
        seconds = budget.left(stage.cap)
        allowed, refused = _split(stage, store.document)
        for case, why in refused:
            store.add(stage.step, case, "skipped", why)
        tell(f"{budget.spent():4.0f} s: {stage.step}, {len(allowed)} cases, at most {seconds:.0f} s")
        _run_stage(kind, stage, allowed, seconds, store, run)
        if kind == "cuda" and stage is told:
            shapes = missed_shapes(store.document)
            cases = [{"version": "ours", "precision": "fp16", "batch": b, "clips": clips} for b, clips in shapes]
            if cases:
                run("profile", kind, cases, budget.left(40), _report(store, "profile"))


def _run_stage(kind: str, stage: Stage, cases: Sequence[Case], seconds: float, store: Store, run: Run) -> None:
    report = _report(store, stage.step)
    if not stage.apart:
        run(stage.step, kind, cases, seconds, report)
        return
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case["op"], []).append(case)
    with ThreadPoolExecutor(max(1, len(groups))) as pool:
        list(pool.map(lambda group: run(stage.step, kind, group, seconds, report), groups.values()))


def _report(store: Store, step: str) -> Callable[[Case, str, Any], None]:
    return lambda case, outcome, record: store.add(step, case, outcome, record)


def _split(stage: Stage, document: Document) -> tuple[list[Case], list[tuple[Case, str]]]:
    """Cases that may be timed, and those that may not, with the reason."""
    allowed, refused = [], []
    for case in stage.cases:
        why = _refusal(stage.step, case, document)
        if why is None:
            allowed.append(case)
        else:
            refused.append((case, why))
    return allowed, refused


def _refusal(step: str, case: Case, document: Document) -> str | None:
    if step in ("kernels", "compiled_kernels"):
        return _unchecked(document, "checks", op=case["op"], dtype=case["dtype"])
    if step == "network" and case["version"] == "ours":
        return _unchecked(document, "accuracy", precision=case["precision"])
    return None


def _unchecked(document: Document, step: str, **match: str) -> str | None:
    found = next(iter(entries(document, step, **match)), None)
    if found is None or found["outcome"] == "skipped":
        return "was not checked"
    if found["outcome"] == "failed" or not found["record"]["passed"]:
        return "failed its check: no speed-up is told"
    return None


def baseline_failures(document: Document) -> list[str]:
    """Cases of what ours is compared with that ended in an error, one line each: no fault of ours."""
    return [
        f"{step}: {name_of(entry)}: {entry['why']}"
        for step, found in document["steps"].items()
        for entry in found
        if entry["outcome"] == "failed" and _is_baseline(step, entry)
    ]


def _is_baseline(step: str, entry: Case) -> bool:
    return step.startswith("compiled") or entry.get("version") == "eager"


def failures(document: Document) -> list[str]:
    """Everything of ours that went wrong, one line each: failed checks and cases that ended in an error."""
    lines = []
    for step, found in document["steps"].items():
        for entry in found:
            name = name_of(entry)
            if entry["outcome"] == "failed":
                lines += [] if _is_baseline(step, entry) else [f"{step}: {name}: {entry['why']}"]
            elif entry["outcome"] == "done" and not (entry["record"] or {}).get("passed", True):
                lines.append(f"{step}: {name}: is not what its reference computes")
            elif step == "recurrence" and entry["outcome"] == "done":
                parts = {**entry["record"]["loops"], "layer": entry["record"]["layer"]}
                wrong = [part for part, one in parts.items() if (one["why"] or "").startswith("failed its check")]
                lines += [f"{step}: {name}: {part}: {parts[part]['why']}" for part in wrong]
    return lines


def name_of(entry: Case) -> str:
    """A case's values, for people."""
    return " ".join(str(value) for name, value in entry.items() if name not in ("outcome", "record", "why"))
