"""Moments in seconds to pairs of clips, and the clips of the saliency loss."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from img_deploy.errors import AnnotationError
from img_deploy.training.labels import label_moments, sample_saliency_clips


def label_moment(start, end, clips, duration):
    """The label of one moment."""
    ((first, last),) = label_moments([start], [end], [clips], [duration]).tolist()
    return first, last


def brute_force(start: Fraction, end: Fraction, clips: int, duration: Fraction) -> tuple[int, int]:
    """The definition in exact arithmetic over every pair, first of equals in row order."""
    best, best_iou = (0, 0), Fraction(0)
    for i, j in product(range(clips), repeat=2):
        if i > j:
            continue
        low, high = i * duration / clips, (j + 1) * duration / clips
        shared = min(high, end) - max(low, start)
        iou = max(shared, Fraction(0)) / (max(high, end) - min(low, start))
        if iou > best_iou:
            best, best_iou = (i, j), iou
    return best


def test_golden(golden_json):
    """A label off by one trains and scores every head on a shifted moment."""
    rows = golden_json("time_index")
    columns = ([row[key] for row in rows] for key in ("start", "end", "clips", "duration"))
    expected = [[row["start_index"], row["end_index"]] for row in rows]
    assert label_moments(*columns).tolist() == expected
    for row, pair in zip(rows, expected, strict=True):
        assert list(label_moment(row["start"], row["end"], row["clips"], row["duration"])) == pair


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 9), st.integers(1, 400), st.data())
def test_equals_brute_force_on_annotated_decimals(clips, tenths, data):
    """The closed form must find the exact best pair, ties included, though tenths are not exact in binary."""
    start = data.draw(st.integers(0, tenths - 1))
    end = data.draw(st.integers(start + 1, tenths))
    expected = brute_force(Fraction(start, 10), Fraction(end, 10), clips, Fraction(tenths, 10))
    assert label_moment(start / 10, end / 10, clips, tenths / 10) == expected


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.integers(1, 30), st.integers(1, 6), st.data())
def test_equals_brute_force_where_ties_abound(clips, size, length, data):
    """Moments on thirds of a clip tie often; a tie must go to the first pair in row order."""
    duration = Fraction(3 * size * clips, 10)
    start = data.draw(st.integers(0, 3 * clips - 1))
    low, high = Fraction(start * size, 10), min(Fraction((start + length) * size, 10), duration)
    expected = brute_force(low, high, clips, duration)
    assert label_moment(float(low), float(high), clips, float(duration)) == expected


def test_ties_are_exercised():
    """[1, 4] s on clips of 3 s: (0, 0) and (0, 1) both have IoU 1/2; in tenths binary rounding must not decide."""
    assert label_moment(1, 4, clips=4, duration=12) == (0, 0)
    for size in (0.1, 0.3, 0.7, 1.1):
        assert label_moment(size, 4 * size, clips=4, duration=12 * size) == (0, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.floats(0.5, 500), st.floats(-1, 2), st.floats(-1, 2))
@example(3, 229.19072284934694, 1.0, 2.0)  # begins where the video ends, by rounding a little before
def test_equals_brute_force_for_any_moment(clips, duration, a, b):
    """Moments outside the video, reversed or empty must still get the pair the rule gives ((0, 0) at IoU 0)."""
    start, end = min(a, b) * duration, max(a, b) * duration
    got = label_moment(start, end, clips, duration)
    expected = brute_force(Fraction(start), Fraction(end), clips, Fraction(duration))
    if got != expected:  # then the two must tie to within rounding

        def iou(pair):
            low, high = pair[0] * duration / clips, (pair[1] + 1) * duration / clips
            return max(min(high, end) - max(low, start), 0) / (max(high, end) - min(low, start))

        assert iou(got) == pytest.approx(iou(expected), abs=1e-11)
        assert got < expected
    assert label_moment(duration * 0.6, duration * 0.4, clips, duration) == (0, 0)


def test_batch_equals_one_by_one_at_full_length():
    """A batch with videos of different lengths must not mix its rows up."""
    random = np.random.default_rng(0)
    durations = random.uniform(1, 300, 500).round(2)
    starts = (durations * random.uniform(0, 0.9, 500)).round(1)
    ends = np.minimum(starts + random.uniform(0.1, 60, 500).round(1), durations)
    clips = random.integers(1, 129, 500)
    pairs = label_moments(starts, ends, clips, durations)
    alone = [label_moment(*row) for row in zip(starts, ends, clips, durations, strict=True)]
    assert pairs.tolist() == [list(pair) for pair in alone]
    assert (pairs[:, 0] <= pairs[:, 1]).all()
    assert (pairs[:, 1] < clips).all()


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ((0, 1, 4, 0.0), "duration"),
        ((0, 1, 4, float("nan")), "duration"),
        ((0, 1, 0, 9.0), "clips"),
        ((float("nan"), 1, 4, 9.0), "not finite"),
    ],
)
def test_impossible_videos_are_refused(moment, message):
    """A zero duration would give labels from divisions by zero instead of an error."""
    with pytest.raises(AnnotationError, match=message):
        label_moment(*moment)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30), st.data(), st.integers(0, 2**32))
def test_saliency_clips(clips, data, seed):
    """Positives must lie in the moment, negatives on real clips outside it, each two distinct where there are two."""
    start = data.draw(st.integers(0, clips - 1))
    end = data.draw(st.integers(start, clips - 1))
    positives, negatives = sample_saliency_clips([start], [end], [clips], seed)
    assert positives.shape == negatives.shape == (1, 2)
    assert all(start <= clip <= end for clip in positives[0])
    assert (len(set(positives[0].tolist())) == 2) is (end > start)
    outside = clips - (end - start + 1)
    if outside < 2:
        assert negatives[0].tolist() == [0, 0]
    else:
        assert len(set(negatives[0].tolist())) == 2
        assert all(0 <= clip < clips and not start <= clip <= end for clip in negatives[0])


def test_saliency_clips_are_drawn_evenly_and_repeat_from_their_seed():
    """A draw that favours some clips, or differs between two runs of one seed, would go unnoticed in training."""
    many = [np.full(20_000, value) for value in (3, 5, 9)]
    positives, negatives = sample_saliency_clips(*many, seed=(7, 1))
    again = sample_saliency_clips(*many, seed=(7, 1))
    other = sample_saliency_clips(*many, seed=(7, 2))
    assert (positives == again[0]).all()
    assert (negatives == again[1]).all()
    assert (positives != other[0]).any()
    for column in (0, 1):
        assert np.bincount(positives[:, column], minlength=9)[3:6] == pytest.approx([20_000 / 3] * 3, rel=0.05)
        outside = np.bincount(negatives[:, column], minlength=9)[[0, 1, 2, 6, 7, 8]]
        assert outside == pytest.approx([20_000 / 6] * 6, rel=0.06)
