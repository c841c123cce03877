"""Statistics on known samples, and the order in which versions are measured."""

import gc
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.benchmarks.timing import MIN_ROUNDS, Effort, interleaved, paired_ratio, summarize
from img_deploy.errors import InputError

TIMES = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50)


def test_percentiles_of_known_samples():
    """Every latency of the tables would be off."""
    summary = summarize([float(value) for value in reversed(range(101))])
    assert (summary.p50, summary.p90, summary.p99) == (50.0, 90.0, 99.0)
    assert (summary.count, summary.low, summary.high, summary.mean) == (101, 0.0, 100.0, 50.0)


def test_percentiles_between_samples_are_interpolated():
    """p99 of a few samples would jump to the greatest, or p50 of two would be one of them."""
    summary = summarize([10.0, 20.0])
    assert summary.p50 == 15.0
    assert summary.p90 == pytest.approx(19.0)


@settings(max_examples=50, deadline=None)
@given(TIMES)
def test_percentiles_are_ordered_and_do_not_depend_on_the_order_of_samples(samples):
    """A table could show p99 below p50."""
    summary = summarize(samples)
    assert summary.low <= summary.p50 <= summary.p90 <= summary.p99 <= summary.high
    assert summarize(sorted(samples)) == summary


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_no_figure_is_made_of_nothing(samples):
    """A failed measurement would become a number in a table."""
    with pytest.raises(ValueError, match="samples"):
        summarize(samples)


def test_the_ratio_is_the_median_of_paired_ratios():
    """The ratio of two medians pairs a quiet moment of one version with a busy one of the other."""
    baseline, other = [10.0, 40.0, 12.0], [5.0, 4.0, 6.0]
    ratio = paired_ratio(baseline, other)
    assert ratio.p50 == 2.0
    assert np.median(baseline) / np.median(other) == pytest.approx(2.4)  # what it would be otherwise


@settings(max_examples=50, deadline=None)
@given(TIMES, st.floats(0.1, 10))
def test_a_version_that_is_always_k_times_faster_has_ratio_k(times, factor):
    """Slow rounds of the machine would leak into the ratio."""
    ratio = paired_ratio(times, [value / factor for value in times])
    assert ratio.p50 == pytest.approx(factor)
    assert ratio.p25 == pytest.approx(ratio.p75)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([-1.0], [1.0])])
def test_times_that_do_not_pair_have_no_ratio(a, b):
    """Rounds would be paired with those of another case, or a ratio be infinite."""
    with pytest.raises(ValueError, match="times"):
        paired_ratio(a, b)


def test_rounds_are_interleaved_and_inputs_rotate():
    """A then B, one after the other, would charge a busy minute to one of them; one input would sit in the cache."""
    calls = []

    def version(name):
        def run(inputs):
            calls.append((name, inputs))
            return {"work": 1.0}

        return run

    times = interleaved({"a": version("a"), "b": version("b")}, 3, Effort(repeats=4, warmup=1))
    assert calls[:2] == [("a", 0), ("b", 0)]  # the warm-up
    measured = calls[2:]
    assert measured == [
        ("a", 0), ("b", 0),
        ("b", 1), ("a", 1),
        ("a", 2), ("b", 2),
        ("b", 0), ("a", 0),
    ]  # fmt: skip
    assert {name: len(rounds) for name, rounds in times.items()} == {"a": 4, "b": 4}


def test_warm_up_rounds_are_not_in_the_result():
    """Compilation and lazy loading would make p99."""
    seen = []

    def run(_inputs):
        seen.append(len(seen))
        return {"work": float(seen[-1])}

    times = interleaved({"a": run}, 1, Effort(repeats=2, warmup=3))
    assert [stages["work"] for stages in times["a"]] == [3.0, 4.0]


def test_time_ends_the_rounds_but_not_before_the_least():
    """A slow case would have one round and no median, or a fast one would never end."""
    clock = iter(range(100))
    assert len(list(Effort(seconds=0.5).rounds(lambda: float(next(clock))))) == MIN_ROUNDS
    clock = iter(range(100))
    assert len(list(Effort(seconds=9.5).rounds(lambda: float(next(clock))))) == 9


def test_the_garbage_collector_rests_while_measuring_and_works_again_after_a_failure():
    """A collection in the middle of a round would be a latency of that round; a failure would leave it off."""
    states = []

    def run(_inputs):
        states.append(gc.isenabled())
        if len(states) == 2:
            raise RuntimeError("broken")
        return {"work": 1.0}

    with pytest.raises(RuntimeError):
        interleaved({"a": run}, 1, Effort(repeats=3, warmup=0))
    assert states == [False, False]
    assert gc.isenabled()


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": math.nan}, {"repeats": 0}, {"warmup": -1}])
def test_effort_out_of_range_is_refused(options):
    """A run of no rounds would end in an empty table."""
    with pytest.raises(InputError, match="expected"):
        Effort(**options)
