"""Where a kernel stands below the ceilings that were measured on the same card."""

from dataclasses import dataclass
from typing import Any

from img_deploy.benchmarks.on_gpu.store import Document, record_of

FAR = 0.1
"""Below this share of the floor's speed, neither memory nor arithmetic holds a kernel: latency does."""


@dataclass(frozen=True)
class Position:
    """A timed kernel: what it achieves, as shares of the ceilings, and what bounds it."""

    bytes_per_second: float
    flops_per_second: float
    of_copy: float
    """Share of the copy's bytes per second."""
    of_product: float
    """Share of the matrix product's FLOP/s in the same precision."""
    of_floor: float
    """Floor over time: the floor is what the slower of both would take at its ceiling."""
    bound: str


def position(record: dict[str, Any], dtype: str, document: Document) -> Position | None:
    """None where the kernel or a ceiling was not measured."""
    copy, product = (record_of(document, "ceilings", name=name) for name in ("copy", dtype))
    known = copy is not None and product is not None and copy["per_second"] and product["per_second"]
    if record["ours"] is None or not known:
        return None
    seconds = record["ours"]["p50"] * 1e-3
    moving, computing = record["bytes"] / copy["per_second"], record["flops"] / product["per_second"]
    of_floor = max(moving, computing) / seconds
    bound = "memory" if moving >= computing else "arithmetic"
    return Position(
        bytes_per_second=record["bytes"] / seconds,
        flops_per_second=record["flops"] / seconds,
        of_copy=moving / seconds,
        of_product=computing / seconds,
        of_floor=of_floor,
        bound=bound if of_floor >= FAR else "latency",
    )
