"""Results of the study, gathered over seeds."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from img_deploy.benchmarks.learning.plan import Places, Run, planned

Result = dict[str, Any]
"""What one run left, as :mod:`img_deploy.benchmarks.learning.measure` wrote it."""


@dataclass(frozen=True)
class Figure:
    """One quantity over seeds."""

    values: tuple[float, ...]
    """One per seed that was run; none where nothing was."""
    seeds: tuple[int, ...] = ()
    """Whose the values are, where that is known."""

    @property
    def by_seed(self) -> dict[int, float]:
        return dict(zip(self.seeds, self.values, strict=True))

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values) if self.values else math.nan

    @property
    def low(self) -> float:
        return min(self.values, default=math.nan)

    @property
    def high(self) -> float:
        return max(self.values, default=math.nan)

    def text(self, digits: int = 1) -> str:
        """Mean, and in brackets the least and the greatest; ``not run`` where there is none.

        >>> Figure((99.0, 100.0, 99.5)).text()
        '99.5 (99.0 to 100.0)'
        >>> Figure((99.0,)).text(), Figure(()).text()
        ('99.0 (one seed)', 'not run')
        """
        if not self.values:
            return "not run"
        if len(self.values) == 1:
            return f"{self.mean:.{digits}f} (one seed)"
        return f"{self.mean:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


class Results:
    """All results that are there."""

    def __init__(self, results: dict[Run, Result], runs: Sequence[Run]) -> None:
        self.results, self.runs = results, tuple(runs)

    @classmethod
    def read(cls, places: Places) -> "Results":
        runs = planned()
        files = {run: places.result(run) for run in runs}
        return cls({run: json.loads(file.read_text("utf-8")) for run, file in files.items() if file.exists()}, runs)

    @property
    def missing(self) -> list[Run]:
        return [run for run in self.runs if run not in self.results]

    def of(self, name: str, share: float = 0.0) -> list[Result]:
        """Results of one kind of network, by seed."""
        found = [(run.seed, result) for run, result in self.results.items() if (run.name, run.share) == (name, share)]
        return [result for _, result in sorted(found, key=lambda pair: pair[0])]

    def seeds(self, name: str, share: float = 0.0) -> list[int]:
        return sorted(run.seed for run in self.results if (run.name, run.share) == (name, share))

    def figure(self, read: Callable[[Result], float | None], name: str = "full", share: float = 0.0) -> Figure:
        """A quantity of every result of one kind; results that lack it are left out."""
        read_ones = zip(self.seeds(name, share), map(read, self.of(name, share)), strict=True)
        found = {seed: value for seed, value in read_ones if value is not None and not math.isnan(value)}
        return Figure(tuple(found.values()), tuple(found))

    def score(self, group: str, head: str, metric: str, name: str = "full", share: float = 0.0) -> Figure:
        """A head's score on a group of test queries, in percent."""
        return self.figure(lambda result: score_of(result["test"], group, head, metric), name, share)

    def importance(self, group: str, name: str = "full", share: float = 0.0) -> Figure:
        """Mean importance of a group of test queries."""
        return self.figure(lambda result: result["test"].get(group, {}).get("importance"), name, share)

    def noised_score(self, share: float, group: str, head: str, metric: str, name: str = "full") -> Figure:
        """A score of networks trained on real audio where this share of the test videos has noise as audio."""
        return self.figure(lambda result: score_of(_noised(result, share), group, head, metric), name)

    def noised_importance(self, share: float, group: str, name: str = "full") -> Figure:
        return self.figure(lambda result: _noised(result, share).get(group, {}).get("importance"), name)

    def queries(self, group: str, share: float = 0.0) -> Figure:
        """Test queries of a group, per seed."""
        return self.figure(lambda result: _noised(result, share).get(group, {}).get("queries"))

    def chance(self, metric: str) -> Figure:
        """What an answer scores that knows how moments lie in videos, but not this video."""
        return self.figure(lambda result: result["test"]["all"].get("chance", {}).get(metric))

    def ceiling(self, share: float = 0.0) -> Figure:
        """Best R@1 that can be expected, in percent: of a pair that looks alike and has no sound, a half is found."""
        return self.figure(lambda result: _ceiling(_noised(result, share)))


def score_of(groups: dict[str, Any], group: str, head: str, metric: str) -> float | None:
    """One score out of the groups of one evaluation; None where it is not there."""
    value = groups.get(group, {}).get(head, {}).get(metric)
    return None if value is None else float(value)


def _noised(result: Result, share: float) -> dict[str, Any]:
    found: dict[str, Any] = result["noised_test"].get(str(share), {}) if share else result["test"]
    return found


def _ceiling(groups: dict[str, Any]) -> float | None:
    if not groups:
        return None
    counted = ("look-alike, sound decides", "sight can answer", "no audio")
    decided = sum(groups.get(name, {}).get("queries", 0) for name in counted)
    whole = groups["all"]["queries"]
    return float(100 * (decided + (whole - decided) / 2) / whole)
