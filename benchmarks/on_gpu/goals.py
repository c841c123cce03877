"""What the kernels are meant to reach on an H200, and whether they did."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from img_deploy.benchmarks.on_gpu.recurrence_figures import us_per_step
from img_deploy.benchmarks.on_gpu.store import Document, entries, record_of

SINGLE, CROWD = (1, 128), (64, 64)
"""(batch, clips)."""


@dataclass(frozen=True)
class Goal:
    """One goal; ``got`` is None where it was not measured."""

    text: str
    unit: str
    wanted: float
    at_least: bool
    got: float | None
    shape: tuple[int, int]
    """(batch, clips) of the run that a profile explains it by."""

    @property
    def met(self) -> bool | None:
        if self.got is None:
            return None
        return self.got >= self.wanted if self.at_least else self.got <= self.wanted

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def goals(document: Document) -> list[Goal]:
    """All goals with what was measured."""
    ours = record_of(document, "network", version="ours", precision="fp16", batch=1, clips=128)
    crowd = record_of(document, "network", version="ours", precision="fp16", batch=64, clips=64)
    own = None if ours is None else _p50(ours["latency"])
    eager, compiled = fastest_eager(document, *SINGLE), fastest_compiled(document, *SINGLE)
    per_batch = None if crowd is None else _p50(crowd["throughput"])
    return [
        Goal("one pair, 128 clips, fp16: eager's p50 over ours", "times", 40, True, _over(eager, own), SINGLE),
        Goal("the same: torch.compile's p50 over ours", "times", 3, True, _over(compiled, own), SINGLE),
        Goal(
            "the same, from features in host memory to the span",
            "ms",
            0.5,
            False,
            None if ours is None else _p50(ours.get("end_to_end")),
            SINGLE,
        ),
        Goal("a GRU layer, one sample, fp16, the slower of both", "us per step", 0.7, False, _gru(document), SINGLE),
        Goal("64 pairs of 64 clips, fp16", "pairs per second", 50000, True, _over(64000.0, per_batch), CROWD),
    ]


def missed_shapes(document: Document) -> list[tuple[int, int]]:
    """(batch, clips) whose profile explains the goals that were missed."""
    return list(dict.fromkeys(goal.shape for goal in goals(document) if goal.met is False))


def fastest_eager(document: Document, batch: int, clips: int, figure: str = "latency") -> float | None:
    """Milliseconds per batch of the published way of computing, in the precision that it is faster in."""
    found = entries(document, "network", version="eager", batch=batch, clips=clips, outcome="done")
    return _least(entry["record"][figure] for entry in found)


def fastest_compiled(document: Document, batch: int, clips: int, figure: str = "latency") -> float | None:
    """The same of ``torch.compile``, in the faster of both ways."""
    found = entries(document, "compiled_network", batch=batch, clips=clips, outcome="done")
    return _least(entry["record"][figure] for entry in found)


def _gru(document: Document) -> float | None:
    found = entries(document, "recurrence", batch=1, dtype="fp16", outcome="done")
    values = [us_per_step(entry["record"]["layer"]["ms"], entry["clips"]) for entry in found]
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None


def _least(figures: Iterable[Any]) -> float | None:
    known = [value for value in map(_p50, figures) if value is not None]
    return min(known) if known else None


def _p50(figures: Any) -> float | None:
    return None if figures is None else float(figures["p50"])


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below
