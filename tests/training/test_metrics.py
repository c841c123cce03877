"""Scores, their intervals, and scores by moment length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import InputError
from img_deploy.training.metrics import (
    METRIC_NAMES,
    best_iou,
    bootstrap_intervals,
    by_moment_ratio,
    summarise,
    window_iou,
)


def test_golden(golden_json):
    """A threshold that excludes equality, or another IoU, would make every published comparison void."""
    golden = golden_json("metrics")
    ious = window_iou(golden["pred"], golden["gt"])
    assert ious.tolist() == pytest.approx(golden["iou"], abs=1e-12)
    assert summarise(ious) == pytest.approx({name: golden[name] for name in METRIC_NAMES}, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=4, max_size=4))
def test_iou_properties(times):
    """IoU must be symmetric, in 0..1, and 1 for a window with itself."""
    a, b = [min(times[:2]), max(times[:2])], [min(times[2:]), max(times[2:])]
    (forth,), (back,) = window_iou([a], [b]), window_iou([b], [a])
    assert forth == back
    assert 0 <= forth <= 1
    assert window_iou([a], [a])[0] == (1.0 if a[1] > a[0] else 0.0)


def test_iou_of_degenerate_windows_is_zero():
    """Empty, reversed and touching windows must not divide by zero or score."""
    pairs = [([1, 1], [1, 1]), ([5, 2], [1, 6]), ([0, 2], [2, 4]), ([3, 3], [1, 6])]
    assert window_iou(*zip(*pairs, strict=True)).tolist() == [0.0] * 4


def test_best_window_counts():
    """With several annotated windows the evaluators score against the one that fits best."""
    assert best_iou((2.0, 4.0, 0.9), [[0, 1], [2, 4], [3, 9]]) == 1.0


def test_no_query_is_refused():
    """A mean over nothing would be NaN in a report."""
    with pytest.raises(InputError, match="no query"):
        summarise([])


def test_windows_of_a_wrong_shape_are_refused():
    """Prediction rows carry a score; passing them whole would otherwise score start against end."""
    with pytest.raises(InputError, match="shape"):
        window_iou([[0, 1, 0.5]], [[0, 1]])


def test_bootstrap_repeats_from_its_seed_and_holds_the_score():
    """An interval that changes from run to run, or leaves out the score itself, is worth nothing."""
    random = np.random.default_rng(0)
    ious = random.random(300)
    vids = [f"v{k // 3}" for k in range(300)]
    first = bootstrap_intervals(ious, vids, seed=4)
    assert first == bootstrap_intervals(ious, vids, seed=4)
    assert first != bootstrap_intervals(ious, vids, seed=5)
    for name, value in summarise(ious).items():
        assert first[name].value == value
        assert first[name].low < value < first[name].high


def test_bootstrap_matches_theory():
    """With one query per video the interval of a mean is that of the normal approximation."""
    ious = np.random.default_rng(1).random(2000)
    interval = bootstrap_intervals(ious, [str(k) for k in range(2000)], resamples=4000)["mIoU"]
    half = 1.96 * 100 * ious.std() / np.sqrt(2000)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.06)


def test_bootstrap_redraws_videos_not_queries():
    """Ten equal queries of one video say no more than one: the interval must not shrink with copies."""
    ious = np.random.default_rng(2).random(60)
    single = bootstrap_intervals(ious, [str(k) for k in range(60)], resamples=3000)["mIoU"]
    copies = bootstrap_intervals(np.repeat(ious, 10), [str(k // 10) for k in range(600)], resamples=3000)["mIoU"]
    assert copies.high - copies.low == pytest.approx(single.high - single.low, rel=0.1)
    assert bootstrap_intervals([0.5, 0.7], ["same", "same"])["mIoU"].low == pytest.approx(60.0)


def test_bootstrap_wants_a_video_for_each_score():
    """A shifted list would pair scores with the wrong videos."""
    with pytest.raises(InputError, match="video ids"):
        bootstrap_intervals([0.1, 0.2], ["a"])


def test_ratio_bins():
    """Every query must be in one bin, edges in the upper one and a whole-video moment in the last."""
    ratios = [0.0, 0.2, 0.39, 0.4, 0.6, 0.8, 1.0, 1.3]
    bins = by_moment_ratio(np.linspace(0.2, 0.9, 8), np.zeros(8), np.array(ratios) * 10, np.full(8, 10.0))
    assert [part.queries for part in bins] == [1, 2, 1, 1, 3]
    assert (bins[0].low, bins[-1].high) == (0.0, 1.0)
    assert bins[0].metrics == summarise([0.2])
    empty = by_moment_ratio([0.5], [0.0], [1.0], [1.0])
    assert [part.metrics for part in empty[:4]] == [None] * 4
    # 3 / 5 * 5 rounds to 3 exactly, 0.6 read from a file as (8.4 - 2.4) / 10 falls just short of it.
    assert by_moment_ratio([1.0], [0.0], [6.0], [10.0])[3].queries == 1
