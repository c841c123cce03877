"""The verification table: for people, and as a file of the bundle."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from img_deploy.export.verify import BUDGETS, Row, Verification

if TYPE_CHECKING:
    from img_deploy.export.engines import EngineReport

REPORT = "verification.md"
NUMBERS = ("largest", "mean", "same span", "IoU", "samples", "size")


def columns(verification: Verification) -> dict[str, Sequence[str]]:
    """Heading -> cells, one per row."""
    rows = verification.rows
    return {
        "backend": [row.backend for row in rows],
        "precision": [row.precision for row in rows],
        "graph": [row.graph for row in rows],
        "largest": [f"{row.largest:.1e}" for row in rows],
        "mean": [f"{row.mean:.1e}" for row in rows],
        "same span": ["-" if row.agreement is None else f"{row.agreement:.1%}" for row in rows],
        "IoU": ["-" if row.iou is None else f"{row.iou:.3f}" for row in rows],
        "samples": [str(row.samples) for row in rows],
        "size": [_size(row.bytes) for row in rows],
        "result": ["passed" if row.passed else "FAILED" for row in rows],
    }


ENGINE_NUMBERS = ("layers", "size", "scratch", "built in")


def engine_columns(reports: "Sequence[EngineReport]") -> dict[str, Sequence[str]]:
    """Heading -> cells, one per engine that was built for a graph and a GPU."""
    records = [report.record for report in reports]
    return {
        "backend": [record.edition for record in records],
        "precision": [record.precision for record in records],
        "graph": [record.graph for record in records],
        "gpu": [record.where for record in records],
        "layers": [str(len(record.layers)) for record in records],
        "size": [_size(report.bytes) for report in reports],
        "scratch": [_size(report.scratch_bytes) if report.scratch_bytes else "-" for report in reports],
        "built in": [f"{record.seconds:.0f} s" for record in records],
        "result": ["passed" if record.verified else "not run here" for record in records],
    }


def title(verification: Verification) -> str:
    return f"difference from the eager fp32 network, {verification.source}"


def failure(verification: Verification) -> str:
    """One line that names every row that failed, and what would have passed."""
    return "; ".join(_reason(row) for row in verification.rows if not row.passed)


def markdown(verification: Verification) -> str:
    """The table as a file."""
    cells = columns(verification)
    lines = [" | ".join(cells), " | ".join("---" for _ in cells)]
    lines += [" | ".join(row) for row in zip(*cells.values(), strict=True)]
    body = "\n".join(f"| {line} |" for line in lines)
    return f"# Verification\n\n{title(verification).capitalize()}.\n\n{body}\n"


def _reason(row: Row) -> str:
    budget = BUDGETS[row.precision]
    allowed = budget.largest if row.allowed is None else row.allowed
    reason = f"{row.backend} {row.precision} {row.graph}: off by {row.largest:.1e}, expected at most {allowed:.3g}"
    if row.agreement is not None and row.agreement < budget.agreement:
        reason += f", same span in {row.agreement:.1%} of samples, expected {budget.agreement:.0%}"
    if row.iou is not None and row.iou < budget.iou:
        reason += f", spans overlap by {row.iou:.3f}, expected {budget.iou:g}"
    return reason


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
