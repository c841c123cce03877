"""What the kernels are meant to reach, and whether they did."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from img_deploy.benchmarks.on_gpu.record import DONE, Entry
from img_deploy.benchmarks.on_gpu.steps import CROWD, SINGLE


@dataclass(frozen=True)
class Goal:
    """One goal; ``got`` is None where it was not measured, ``right`` False where a check of what was timed failed."""

    text: str
    unit: str
    wanted: float
    at_least: bool
    got: float | None
    right: bool | None

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, ``not measured``, or why a figure decides nothing."""
        if self.got is None:
            return "not measured"
        if self.right is not True:
            return "not checked" if self.right is None else "wrong answers"
        return "met" if (self.got >= self.wanted if self.at_least else self.got <= self.wanted) else "missed"


def goals(entries: Sequence[Entry]) -> list[Goal]:
    """All goals with what was measured in both parts."""

    def p50(step: str, figure: str, **case: Any) -> float | None:
        """The least median of the cases that match."""
        records = [entry.record for entry in matching(entries, step, **case)]
        known = [record[figure]["p50"] for record in records if record[figure] is not None]
        return min(known, default=None)

    fp16 = {"precision": "fp16"}
    own = p50("network", "latency", version="ours", **fp16, **SINGLE)
    eager, compiler = p50("network", "latency", version="eager", **SINGLE), p50("compiled", "latency", **SINGLE)
    whole, crowd = p50("served", "whole", **fp16, **SINGLE), p50("served", "encoded_streaming", **fp16, **CROWD)
    right = _right(entries, ("checks", "accuracy"), "fp16")
    steps = [p50("training", figure, batch=16) for figure in ("published", "ours")]
    one = "one pair of 128 clips, fp16"
    return [
        Goal(f"{one}: eager's time over ours", "times", 60, True, _over(eager, own), right),
        Goal(f"{one}: torch.compile's time over ours", "times", 4, True, _over(compiler, own), right),
        Goal(f"{one}: from features in host memory to the span", "ms", 0.5, False, whole, right),
        Goal(
            *("64 pairs of 64 clips encoded before, from host memory, fp16", "pairs/s", 80_000, True),
            *(_over(64_000.0, crowd), right),
        ),
        Goal(
            *("a training step, 16 pairs of 64 clips, fp32: the published way's time over ours", "times", 1.5, True),
            *(_over(*steps), _right(entries, ("training",), None)),
        ),
    ]


def matching(entries: Iterable[Entry], step: str, **case: Any) -> list[Entry]:
    """The cases of a step that were done and have these values."""
    return [one for one in entries if one.step == step and one.outcome == DONE and case.items() <= one.case.items()]


def _right(entries: Sequence[Entry], steps: Sequence[str], precision: str | None) -> bool | None:
    """Whether all checks of a precision passed; None where one was not made, or did not end."""
    found = [one for one in entries if one.step in steps and precision in (None, one.case.get("precision", precision))]
    if any(entry.outcome == DONE and not entry.record["passed"] for entry in found):
        return False
    complete = found and {entry.step for entry in found} == set(steps)
    return True if complete and all(entry.outcome == DONE for entry in found) else None


def _over(above: float | None, below: float | None) -> float | None:
    return None if above is None or below is None else above / below


def failures(entries: Sequence[Entry]) -> list[str]:
    """Everything of ours that went wrong, a line each; a baseline that ends in an error is no fault of ours."""
    wrong = [f"{one}: {one.why}" for one in entries if one.outcome == "failed" and not _is_baseline(one)]
    unequal = [one for one in entries if one.outcome == DONE and not one.record.get("passed", True)]
    return wrong + [f"{entry}: is not what its reference computes" for entry in unequal]


def _is_baseline(entry: Entry) -> bool:
    return entry.step == "compiled" or entry.case.get("version") == "eager"
