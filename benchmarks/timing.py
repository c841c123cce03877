"""Timing several versions of one piece of work fairly: interleaved, on rotating inputs, summed up by percentiles.

What is compared is measured in the same rounds (A B, A B, ...), so that a busy moment of the machine falls on all
of them; the ratio of two versions is the median of the ratios of their rounds.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from img_deploy.errors import InputError

MIN_ROUNDS = 5
"""Rounds that are measured even where they take longer than the time given."""


SETTLE_S = 0.01
"""Pause before every timed piece of work: the worker threads of the version before it spin for some milliseconds
after their last task, on cores that the next version needs."""


@dataclass(frozen=True)
class Summary:
    """Samples of one quantity. Percentiles are interpolated linearly between neighbouring samples."""

    count: int
    p50: float
    p90: float
    p99: float
    low: float
    """Least."""
    high: float
    """Greatest."""
    mean: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline, over the rounds that both ran in."""

    count: int
    p50: float
    """Median of the paired ratios."""
    p25: float
    p75: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def summarize(samples: Sequence[float]) -> Summary:
    """Sum up samples, in their own unit.

    >>> summarize([4.0, 1.0, 3.0, 2.0, 5.0]).p50
    3.0

    Raises ValueError: no samples, or one that is not finite.
    """
    values = np.sort(np.asarray(samples, np.float64))  # sorted, so that the mean rounds alike in any order
    if not values.size or not np.isfinite(values).all():
        raise ValueError(f"got {values.size} samples, expected at least one and finite ones")
    p50, p90, p99 = (float(value) for value in np.percentile(values, (50, 90, 99)))
    return Summary(values.size, p50, p90, p99, float(values.min()), float(values.max()), float(values.mean()))


def paired_ratio(baseline: Sequence[float], other: Sequence[float]) -> Ratio:
    """Times of the baseline over times of the other, round by round.

    >>> paired_ratio([10.0, 20.0, 90.0], [5.0, 10.0, 30.0]).p50
    2.0

    Raises ValueError: not as many of one as of the other, none, or a time that is not above zero.
    """
    a, b = np.asarray(baseline, np.float64), np.asarray(other, np.float64)
    if a.shape != b.shape or not a.size or not (a > 0).all() or not (b > 0).all():
        raise ValueError(f"got {a.shape} and {b.shape} times, expected as many of both, all above zero")
    p50, p25, p75 = (float(value) for value in np.percentile(a / b, (50, 25, 75)))
    return Ratio(a.size, p50, p25, p75)


SLICE_S = 0.02
"""Of one piece of work at a time, between two looks at the machine."""
DISTURBED = 1.1
"""Times the least time of :func:`fixed_work_us`, above which the machine is slowed from outside. On a guest of another
machine a core is as fast as its neighbour lets it be: 1.5 times as slow, for seconds on end, and no count of busy
cores in the guest shows it."""


@dataclass(frozen=True)
class Slice:
    """Times of one call, in a row, and of :func:`fixed_work_us` before and after them, all in microseconds."""

    times: list[float]
    before: float
    after: float

    def quiet(self, least: float) -> bool:
        """Whether fixed work whose least time is known took about as long on both sides."""
        return max(self.before, self.after) <= DISTURBED * least


def in_slices(calls: Mapping[str, Callable[[], object]], effort: "Effort") -> dict[str, list[Slice]]:
    """Time several calls, a slice of each in turn, as long as there is time."""
    for call in list(calls.values()) * effort.warmup:
        call()
    slices: dict[str, list[Slice]] = {name: [] for name in calls}
    with no_collection():
        before = fixed_work_us()
        for _ in effort.rounds():
            for name, call in calls.items():
                times = list(_slice_of(call))
                after = fixed_work_us()
                slices[name].append(Slice(times, before, after))
                before = after
    return slices


def _slice_of(call: Callable[[], object]) -> Iterator[float]:
    begin = end = time.perf_counter_ns()
    while end - begin < SLICE_S * 1e9:
        start = time.perf_counter_ns()
        call()
        end = time.perf_counter_ns()
        yield (end - start) / 1e3


def fixed_work_us() -> float:
    """Microseconds of the same steps of the interpreter every time: how fast the machine is at the moment."""
    times = []
    for _ in range(9):
        start, made = time.perf_counter_ns(), {}
        for number in range(200):
            made[number & 31] = str(number)
        times.append((time.perf_counter_ns() - start) / 1e3)
    return float(np.median(times))


@dataclass(frozen=True)
class Effort:
    """How long to measure: until ``seconds`` have passed, or exactly ``repeats`` rounds where given."""

    seconds: float = 3.0
    repeats: int | None = None
    warmup: int = 2
    """Rounds before the first that counts: compilation, allocation and lazy loading fall into them."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise InputError(f"seconds: got {self.seconds}, expected more than 0")
        if self.repeats is not None and self.repeats < 1:
            raise InputError(f"repeats: got {self.repeats}, expected at least 1")
        if self.warmup < 0:
            raise InputError(f"warmup: got {self.warmup}, expected at least 0")

    def rounds(self, clock: Callable[[], float] = time.perf_counter) -> Iterator[int]:
        """Numbers of the rounds to measure, as long as there is time."""
        begin = clock()
        done = 0
        while self._goes_on(done, clock() - begin):
            yield done
            done += 1

    def _goes_on(self, done: int, spent: float) -> bool:
        if self.repeats is not None:
            return done < self.repeats
        return done < MIN_ROUNDS or spent < self.seconds


Run = Callable[[int], Mapping[str, float]]
"""One piece of work on input set ``i``; gives the milliseconds of each of its stages."""


def interleaved(
    runs: Mapping[str, Run], inputs: int, effort: Effort, on_round: Callable[[], None] = lambda: None
) -> dict[str, list[dict[str, float]]]:
    """Stage times of several versions, measured in the same rounds.

    Each round takes the next of the ``inputs`` input sets and runs every version on it once. The version that
    begins changes from round to round, so that none always follows the same other.

    Args:
        runs: the versions, by name.
        inputs: input sets to rotate among; several, so that repeated rounds do not measure the cache.
        effort: how long; the warm-up rounds are not in the result.
        on_round: called after every measured round.

    Returns:
        By name, one ``{stage: milliseconds}`` per round, in the order of the rounds.
    """
    if not runs or inputs < 1:
        raise ValueError(f"got {len(runs)} versions and {inputs} input sets, expected at least one of each")
    names = list(runs)
    for number in range(effort.warmup):
        for name in names:
            runs[name](number % inputs)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with no_collection():
        for number in effort.rounds():
            first = number % len(names)
            for name in names[first:] + names[:first]:
                time.sleep(SETTLE_S)
                times[name].append(dict(runs[name](number % inputs)))
            on_round()
    return times


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's garbage collector from stopping a measurement in the middle."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class Stopwatch:
    """Milliseconds since it was made or last read.

    >>> watch = Stopwatch()
    >>> watch.lap() >= 0
    True
    """

    def __init__(self) -> None:
        self._last = time.perf_counter_ns()

    def lap(self) -> float:
        now = time.perf_counter_ns()
        passed, self._last = now - self._last, now
        return passed / 1e6
