"""The results of a part, one line of JSON per case, written as soon as it is done: a kill loses one case."""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Case = dict[str, Any]
BEGUN, DONE, FAILED, SKIPPED = "begun", "done", "failed", "skipped"


@dataclass(frozen=True)
class Entry:
    """One case of a step: how it ended, and its figures where it is done, or why it is not."""

    step: str
    case: Case
    outcome: str
    record: Any = None
    why: str | None = None

    def __str__(self) -> str:
        return " ".join(map(str, (self.step, *self.case.values())))


class Results:
    """A part's file. Several processes may add to it; the last line of a case counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, head: dict[str, Any]) -> None:
        """Start anew with what the run is told by. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(_line({"head": head}), encoding="utf-8")

    def add(self, step: str, case: Case, outcome: str, record: Any = None, why: str | None = None) -> None:
        line = {"step": step, "case": case, "outcome": outcome}
        line |= {"record": record} if why is None else {"why": why}
        self._append(line)

    def end(self, seconds: float) -> None:
        self._append({"seconds": round(seconds, 1)})

    def _append(self, line: dict[str, Any]) -> None:
        # One write of one line at the end of the file: lines of several processes do not mix.
        target = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(target, _line(line).encode())
        finally:
            os.close(target)

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines that are whole; none where there is no file."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.splitlines():
            try:
                yield json.loads(line)
            except ValueError:  # cut off when the run was killed
                continue

    def head(self) -> dict[str, Any] | None:
        return next((line["head"] for line in self.lines() if "head" in line), None)

    def seconds(self) -> float | None:
        """What the part took; None where it did not end."""
        return next((line["seconds"] for line in self.lines() if "seconds" in line), None)

    def entries(self) -> list[Entry]:
        """Every case once, in the order that they were begun in."""
        found = {}
        for line in self.lines():
            if "step" in line:
                found[line["step"], json.dumps(line["case"])] = Entry(**line)
        return list(found.values())


def _line(value: Any) -> str:
    return json.dumps(_finite(value)) + "\n"


def _finite(value: Any) -> Any:
    """Infinity and NaN, which JSON has not, as None."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
