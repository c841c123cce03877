"""Latency and throughput of backends over batch sizes and lengths, each beside eager PyTorch in the same rounds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from img_deploy.benchmarks.contenders import ASKED, STAGES, Contender, Lineup
from img_deploy.benchmarks.timing import Effort, Ratio, Run, Stopwatch, Summary, interleaved, paired_ratio, summarize
from img_deploy.benchmarks.workload import InputSet, Workload
from img_deploy.errors import ConfigError
from img_deploy.features.folders import FeatureFolder
from img_deploy.runtime.results import Answer

READ = "read"

AGREES = {"fp32": 1e-3}
"""Largest difference of a saliency or importance from eager PyTorch's with which a speed-up is told, by precision."""
AGREES_ELSE = 5e-2


@dataclass(frozen=True)
class Grid:
    """The cases: every batch size with every length in clips, at one number of words."""

    batch_sizes: tuple[int, ...] = (1, 4, 16)
    clips: tuple[int, ...] = (32, 64, 128)
    words: int = 10
    shorten: bool = False
    """Take a length beyond the longest there is as the longest, instead of refusing it."""

    def fitted(self, limits: Mapping[str, Any], longest: int) -> "Grid":
        """The grid for a bundle of these limits, whose videos have at most ``longest`` clips.

        Raises ConfigError naming every value that does not fit.
        """
        problems = [f"batch size {size}: expected at least 1" for size in self.batch_sizes if size < 1]
        clips = tuple(sorted({min(length, longest) if self.shorten else length for length in self.clips}))
        problems += [
            f"{length} clips: expected 1 to {longest}, the longest there is"
            for length in clips
            if not 1 <= length <= longest
        ]
        if not 1 <= self.words <= limits["words"]:
            problems.append(f"{self.words} words: expected 1 to {limits['words']}, what the bundle takes")
        problems += [f"no {name}" for name in ("batch_sizes", "clips") if not getattr(self, name)]
        if problems:
            raise ConfigError("profile: " + "; ".join(problems))
        return replace(self, clips=clips)

    def cases(self) -> Iterator[tuple[int, int]]:
        """(batch size, clips), the shortest first."""
        return ((batch, clips) for clips in sorted(set(self.clips)) for batch in sorted(set(self.batch_sizes)))

    def __len__(self) -> int:
        return len(set(self.batch_sizes)) * len(set(self.clips))


@dataclass(frozen=True)
class CaseResult:
    """One backend at one batch size and length. Times in milliseconds, for the whole batch of pairs."""

    backend: str
    precision: str
    batch: int
    clips: int
    latency: Summary
    """From features in memory and a sentence to the moment: all of ``STAGES``."""
    asked: Summary
    """The same for a further query on videos encoded before: ``ASKED``."""
    pairs_per_second: float
    """Batch size over the median latency."""
    stages: dict[str, float]
    """Medians, with ``read``: that many videos from files that the system has in memory."""
    ratio: Ratio | None
    """Eager PyTorch's latency on the same device over this one's; None without it, or where the answers differ."""
    asked_ratio: Ratio | None
    difference: float | None
    """Largest difference of a saliency or importance from eager PyTorch's; None without it."""
    same_spans: float | None
    """Share of the pairs whose best span is eager PyTorch's."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Agreement:
    """How far the answers of a backend are from eager PyTorch's on the same inputs."""

    difference: float
    same_spans: float

    def within(self, precision: str) -> bool:
        # NaN is not within anything.
        return self.difference <= AGREES.get(precision, AGREES_ELSE)


def measure(
    lineup: Lineup,
    workload: Workload,
    grid: Grid,
    effort: Effort,
    on_case: Callable[[int, int], None] = lambda _batch, _clips: None,
) -> list[CaseResult]:
    """Every case of the grid, all contenders interleaved.

    Args:
        on_case: called with batch size and clips before each case.

    Raises:
        FeatureError: the workload's folder has no video of such a length, or a broken one.
        BackendError: a backend failed while running.
    """
    results = []
    for batch, clips in grid.cases():
        on_case(batch, clips)
        results += measure_case(lineup, workload, batch, clips, effort)
    return results


def measure_case(lineup: Lineup, workload: Workload, batch: int, clips: int, effort: Effort) -> list[CaseResult]:
    """One batch size and length, all contenders interleaved. Raises as :func:`measure`."""
    sets = workload.sets(batch, clips)
    expected = {one.label: one.answers(sets[0]) for one in lineup.contenders}
    with workload.folder(clips) as (folder, names):
        runs: dict[str, Run] = {one.label: _timed(one, sets) for one in lineup.contenders}
        runs[READ] = _reading(folder, names, batch)
        times = interleaved(runs, len(sets), effort)
    read = summarize([stages[READ] for stages in times[READ]]).p50
    results = []
    for contender in lineup.contenders:
        baseline = lineup.baseline_of(contender)
        agreement = None if baseline is None else agree(expected[baseline.label], expected[contender.label])
        other = None
        if baseline is not None and agreement is not None and agreement.within(contender.precision):
            other = times[baseline.label]
        stages = Rounds(times[contender.label], other, read)
        results.append(_result(contender, batch, clips, stages, agreement))
    return results


def agree(expected: Sequence[Answer], found: Sequence[Answer]) -> Agreement:
    """Compare answers to the same pairs."""
    pairs = list(zip(expected, found, strict=True))
    differences = [float(np.abs(a.saliency - b.saliency).max()) for a, b in pairs]
    differences += [
        abs(a.importance - b.importance) for a, b in pairs if a.importance is not None and b.importance is not None
    ]
    return Agreement(float(np.max(differences)), float(np.mean([a.best.span == b.best.span for a, b in pairs])))


@dataclass(frozen=True)
class Rounds:
    """Stage times of one contender, and of the one it is compared with, round by round; ``read`` is a median."""

    own: Sequence[dict[str, float]]
    baseline: Sequence[dict[str, float]] | None
    read: float

    def total(self, stages: Sequence[str]) -> list[float]:
        return _total(self.own, stages)

    def ratio(self, stages: Sequence[str]) -> Ratio | None:
        return None if self.baseline is None else paired_ratio(_total(self.baseline, stages), self.total(stages))


def _result(contender: Contender, batch: int, clips: int, rounds: Rounds, agreement: Agreement | None) -> CaseResult:
    latency = summarize(rounds.total(STAGES))
    return CaseResult(
        backend=contender.label,
        precision=contender.precision,
        batch=batch,
        clips=clips,
        latency=latency,
        asked=summarize(rounds.total(ASKED)),
        pairs_per_second=1000 * batch / latency.p50,
        stages={READ: rounds.read} | {name: summarize(rounds.total([name])).p50 for name in STAGES},
        ratio=rounds.ratio(STAGES),
        asked_ratio=rounds.ratio(ASKED),
        difference=None if agreement is None else agreement.difference,
        same_spans=None if agreement is None else agreement.same_spans,
    )


def _total(rounds: Sequence[dict[str, float]], stages: Sequence[str]) -> list[float]:
    return [sum(times[name] for name in stages) for times in rounds]


def _timed(contender: Contender, sets: Sequence[InputSet]) -> Run:
    return lambda number: contender.time(sets[number])


def _reading(folder: FeatureFolder, names: Sequence[str], batch: int) -> Run:
    videos = cycle(names)

    def read(_number: int) -> dict[str, float]:
        wanted = list(islice(videos, batch))
        watch = Stopwatch()
        for vid in wanted:
            folder.load(vid)
        return {READ: watch.lap()}

    return read
