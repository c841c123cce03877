"""Span decoding against the recorded values and against its own definition, spelled out."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from img_deploy.errors import BackendError, InputError
from img_deploy.runtime.results import moments_of
from img_deploy.runtime.spans import decode_spans, span_to_window


def products(start, end):
    """softmax(start)_i * softmax(end)_j of one sample, -1 where i > j."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    start, end = np.exp(start - start.max()), np.exp(end - end.max())
    table = np.outer(start / start.sum(), end / end.sum())
    table[np.tril_indices(len(start), -1)] = -1
    return table


def iou(one, two):
    shared = max(0, min(one[1], two[1]) + 1 - max(one[0], two[0]))
    return shared / (one[1] - one[0] + 1 + two[1] - two[0] + 1 - shared)


def sums(start, end):
    """start_i + end_j of one sample, by which spans rank as by their products, without rounding; -inf where i > j."""
    table = np.asarray(start, np.float64)[:, None] + np.asarray(end, np.float64)
    table[np.tril_indices(len(start), -1)] = -np.inf
    return table


def greedy(start, end, top_k, nms):
    """The definition of the ranks, one span at a time; of equal ones the first in row order."""
    table = products(start, end)
    kept = []
    for flat in np.argsort(-sums(start, end).ravel(), kind="stable"):
        i, j = divmod(int(flat), len(start))
        if len(kept) < top_k and i <= j and all(iou((i, j), other[:2]) <= nms for other in kept):
            kept.append((i, j, table[i, j]))
    return kept


# Steps of 1/4 make many exact ties, and sums that no rounding blurs.
LOGIT = st.integers(-40, 40).map(lambda quarter: quarter / 4)


@st.composite
def batches(draw):
    clips = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    longest = max(clips) + draw(st.integers(0, 3))
    rows = st.lists(LOGIT, min_size=longest, max_size=longest)
    make = st.lists(rows, min_size=len(clips), max_size=len(clips))
    return np.array(draw(make), np.float32), np.array(draw(make), np.float32), clips


def test_recorded_spans(golden):
    """The answer is not the reference's."""
    cases = load_file(golden / "pieces" / "spans.safetensors")
    lengths = sorted({int(name.split(".")[0]) for name in cases})
    assert lengths == [1, 2, 7, 64, 128]
    for length in lengths:
        start, end = cases[f"{length}.start_logits"], cases[f"{length}.end_logits"]
        for top_k in (1, 3):
            spans = decode_spans(start, end, [length] * len(start), top_k=top_k)
            assert [list(own[0][:2]) for own in spans] == cases[f"{length}.span"].tolist()


@settings(max_examples=200, deadline=None)
@given(batches())
def test_rank_one_is_the_argmax(batch):
    """The running maximum misses the best span, breaks a tie otherwise, or scores it wrongly."""
    start, end, clips = batch
    for own, s, e, n in zip(decode_spans(start, end, clips), start, end, clips, strict=True):
        ((i, j, score),) = own
        assert (i, j) == divmod(int(sums(s[:n], e[:n]).argmax()), n)
        table = products(s[:n], e[:n])
        assert score == pytest.approx(table[i, j], rel=1e-9)
        assert table[i, j] >= table.max() * (1 - 1e-12)


@settings(max_examples=150, deadline=None)
@example(
    (
        np.float32([[-3.75, 0, 0, 0, 0, 3, 0, 3.25, 0, 0]]),
        np.float32([[0, 0, 0, -1.75, -1.75, -1.75, -2, 5, 0, 5.25]]),
        [10],
    ),
    3,
    0.1,
)  # a tie of sums, not of products
@given(batches(), st.integers(2, 6), st.sampled_from([0, 0.1, 0.3, 0.5, 0.7, 1]))
def test_further_ranks(batch, top_k, nms):
    """A moment repeats a better one, a better one was passed over, or rank 1 depends on how many are asked for."""
    start, end, clips = batch
    found = decode_spans(start, end, clips, top_k=top_k, nms=nms)
    single = decode_spans(start, end, clips)
    for own, first, s, e, n in zip(found, single, start, end, clips, strict=True):
        assert own[0] == first[0]
        expected = greedy(s[:n], e[:n], top_k, nms)
        assert [m[:2] for m in own] == [m[:2] for m in expected]
        np.testing.assert_allclose([m[2] for m in own], [m[2] for m in expected], rtol=1e-9)
        for rank, one in enumerate(own):
            assert all(iou(one, other) <= nms and one[:2] != other[:2] for other in own[:rank])


def test_overlap_of_exactly_the_limit_is_kept():
    """Overlap is measured on clip indices instead of the intervals [i, j + 1], or > and >= are mixed up."""
    start, end = np.full((1, 10), -9.0), np.full((1, 10), -9.0)
    start[0, [0, 3]], end[0, [6, 9]] = [9, 8], [9, 6]  # (0, 6), then (0, 9) and (3, 6)
    spans = [span[:2] for span in decode_spans(start, end, [10], top_k=3, nms=0.7)[0]]
    assert spans[:2] == [(0, 6), (3, 6)]
    assert spans[2] == (0, 9)  # shares 7 of 10 clips with (0, 6)
    assert (0, 9) not in [s[:2] for s in decode_spans(start, end, [10], top_k=9, nms=0.69)[0]]


def test_padding_and_batch_change_nothing():
    """A sample's answer depends on its batch or on values past its own clips."""
    rng = np.random.default_rng(0)
    clips = rng.integers(1, 129, 40)
    start, end = rng.normal(0, 4, (2, 40, 128)).astype(np.float32)
    padding = rng.choice([-1e30, -np.inf, np.nan, np.inf, 80], (2, 40, 128))
    outside = np.arange(128) >= clips[:, None]
    dirty = [np.where(outside, padding[k], logits) for k, logits in enumerate((start, end))]
    together = decode_spans(*dirty, clips, top_k=4)
    for b, n in enumerate(clips):
        (alone,) = decode_spans(start[b : b + 1, :n], end[b : b + 1, :n], [n], top_k=4)
        assert [m[:2] for m in alone] == [m[:2] for m in together[b]]
        np.testing.assert_allclose([m[2] for m in alone], [m[2] for m in together[b]], rtol=1e-9)


@pytest.mark.parametrize("low", [-1e30, -np.inf, -1e4])
@pytest.mark.parametrize("top_k", [1, 5])
def test_extreme_logits(low, top_k):
    """Masked or far apart logits give NaN or no answer, or a product of zeros is taken for a tie."""
    with np.errstate(all="raise", under="ignore"):
        (own,) = decode_spans([[low, low, 5.0]], [[low, low, 5.0]], [3], top_k=top_k)
        assert own[0] == (2, 2, pytest.approx(1.0))
        (own,) = decode_spans([[low] * 3], [[low] * 3], [3], top_k=top_k)
        assert own[0] == (0, 0, pytest.approx(1 / 9))
        # The best end comes before the best start: every product of probabilities underflows to 0.
        (own,) = decode_spans([[0.0, 5.0, 900.0]], [[900.0, 1.0, 4.0]], [3], top_k=top_k)
        assert own[0] == (2, 2, 0.0)
        (own,) = decode_spans([[low, low, 900.0]], [[900.0, -900.0, low]], [3], top_k=top_k)
        assert np.isfinite([moment[2] for moment in own]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_failed(value):
    """NaN from a broken backend is passed on as an answer."""
    logits = np.zeros((2, 3))
    logits[1, 2] = value
    for pair in ((logits, np.zeros((2, 3))), (np.zeros((2, 3)), logits)):
        with pytest.raises(BackendError, match="clip 2 of sample 1"):
            decode_spans(*pair, [3, 3])
    assert decode_spans(logits, logits, [3, 2])  # past the sample's own clips


def test_options_and_shapes_are_checked():
    """An option out of range, or arrays that do not belong together, give an answer all the same."""
    zeros = np.zeros((2, 3))
    for option in ({"top_k": 0}, {"nms": -0.1}, {"nms": 1.1}, {"nms": float("nan")}):
        with pytest.raises(InputError):
            decode_spans(zeros, zeros, [3, 3], **option)
    for start, end, clips in (
        (zeros, zeros[:, :2], [3, 3]),
        (zeros, zeros, [3]),
        (zeros, zeros, [3, 4]),
        (zeros, zeros, [0, 3]),
        (zeros[0], zeros[0], [3]),
    ):
        with pytest.raises(ValueError, match="got"):
            decode_spans(start, end, clips)
    assert decode_spans(zeros[:0], zeros[:0], []) == []


def test_plain_types():
    """numpy numbers leak into results, where JSON refuses them."""
    for top_k in (1, 2):
        (own,) = decode_spans(np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), np.array([4]), top_k)
        assert [list(map(type, moment)) for moment in own] == [[int, int, float]] * top_k


def test_seconds(golden):
    """A span's seconds are not the reference's."""
    for case in json.loads((golden / "pieces" / "time_index.json").read_text()):
        span = case["start_index"], case["end_index"]
        window = span_to_window(span, case["clips"], case["duration"])
        assert window == pytest.approx((case["start_back"], case["end_back"]), abs=1e-5)
        (moment,) = moments_of([(*span, 0.5)], case["clips"], case["duration"])
        assert moment.window == window
        assert [part * case["duration"] for part in moment.fraction] == pytest.approx(window)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 128), st.floats(1e-3, 1e5))
def test_windows_tile_the_video(clips, duration):
    """A window ends past the video, or neighbours leave a gap."""
    windows = [span_to_window((i, i), clips, duration) for i in range(clips)]
    assert windows[0][0] == 0
    assert windows[-1][1] == pytest.approx(duration)
    assert all(end <= duration for _, end in windows)
    assert all(one[1] == two[0] for one, two in pairwise(windows))


@pytest.mark.parametrize("duration", [0, -1.0, float("nan"), float("inf")])
def test_bad_duration(duration):
    """Moments at 0 to 0 or NaN seconds are reported."""
    with pytest.raises(InputError, match="duration"):
        span_to_window((0, 0), 4, duration)
