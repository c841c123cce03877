"""Span decoding against the reference and the host's decoding."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.kernels.best_spans import reference
from img_deploy.kernels.best_spans.kernel import best_spans
from img_deploy.kernels.best_spans.reference import TOLERANCES
from img_deploy.kernels.interpreted import interpreting
from img_deploy.kernels.launch import STORAGE_DTYPES
from img_deploy.runtime.spans import decode_spans

SIZES = [(1, 1), (2, 3), (3, 1), (3, 7), (7, 5), (16, 2), (31, 1), (64, 5), (127, 1), (128, 3)]


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize(("length", "k"), SIZES)
def test_scores_and_spans(
    length: int, k: int, dtype: str, draw: Callable, ragged_mask: Callable, check_close: Callable
) -> None:
    """The kernel misses the best span, breaks start <= end, uses a padded clip or returns what it never wrote."""
    start, end = draw(2, 4, length, dtype=STORAGE_DTYPES[dtype], scale=3.0)
    mask = ragged_mask([length, max(1, length // 2), 0, 1], length)
    spans, scores = best_spans(start, end, mask, k)
    expected_spans, expected = reference.best_spans(start.cpu(), end.cpu(), mask.cpu(), k)
    assert spans.tolist() == expected_spans.tolist()
    check_close(scores, expected, TOLERANCES[dtype], f"scores, L={length} k={k}")


LOGITS = (-math.inf, -1e30, -3e4, -104.0, -1.0, 0.0, 1e-6, 0.25, 0.25 + 2**-20, 3.0, 3.0 + 2**-22, 90.0, 1e10)
"""Masked ones; sums that tie in float64, or in float32 alone, or whose products underflow."""


@given(data=st.data(), length=st.sampled_from([1, 2, 7, 16, 17]), batch=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_best_span_is_the_one_that_the_host_decodes(data: st.DataObject, length: int, batch: int) -> None:
    """An answer would depend on where its span was decoded: among equal sums, or where products round to one number."""
    clips = data.draw(st.lists(st.integers(1, length), min_size=batch, max_size=batch))
    values = st.one_of(st.sampled_from(LOGITS), st.floats(-20, 20, width=32))
    row = st.lists(values, min_size=length, max_size=length)
    logits = np.array(data.draw(st.lists(row, min_size=2 * batch, max_size=2 * batch)), np.float32)
    start, end = logits.reshape(2, batch, length)
    mask = np.arange(length) < np.array(clips)[:, None]
    where = "cpu" if interpreting() else "cuda"
    spans, scores = best_spans(*(torch.from_numpy(each).to(where) for each in (start, end, mask)), 1)
    expected = decode_spans(start, end, clips)
    assert [tuple(span) for ((span,),) in zip(spans.tolist(), strict=True)] == [(i, j) for ((i, j, _),) in expected]
    np.testing.assert_allclose(scores[:, 0].cpu(), [score for ((*_, score),) in expected], rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("length", [5, 33])
def test_ties_come_in_row_order(length: int, draw: Callable, ragged_mask: Callable) -> None:
    """Equal scores come in another order than the reference's, so two backends would answer differently."""
    start = (draw(3, length, dtype=torch.float32) > 0).float()
    end = (draw(3, length, dtype=torch.float32) > 0).float() * 2**0.5
    mask = ragged_mask([length, length - 2, 3], length)
    spans, _ = best_spans(start, end, mask, 12)
    expected, _ = reference.best_spans(start, end, mask, 12)
    assert spans.tolist() == expected.tolist()


def test_more_spans_than_exist(draw: Callable, ragged_mask: Callable) -> None:
    """Beyond the last span the kernel repeats one, or gives a score where nothing is left."""
    start, end = draw(2, 2, 3, dtype=torch.float32)
    spans, scores = best_spans(start, end, ragged_mask([2, 3], 3), 8)
    assert (scores[0] > 0).sum() == 3
    assert (scores[1] > 0).sum() == 6
    assert spans[0, 3:].eq(0).all()
    assert sorted(map(tuple, spans[0, :3].tolist())) == [(0, 0), (0, 1), (1, 1)]


def test_mask_with_holes(draw: Callable, device: torch.device) -> None:
    """A span begins or ends in the middle of the sequence where the mask says no."""
    start, end = draw(2, 2, 9, dtype=torch.float32)
    mask = torch.tensor([[True, False, True] * 3, [False, True, False] * 3], device=device)
    spans, scores = best_spans(start, end, mask, 4)
    expected_spans, expected = reference.best_spans(start, end, mask, 4)
    assert spans.tolist() == expected_spans.tolist()
    torch.testing.assert_close(scores, expected)


def test_nothing_to_decode(draw: Callable, device: torch.device) -> None:
    """An empty batch or k = 0 launches an empty grid."""
    empty = torch.zeros(0, 5, dtype=torch.bool, device=device)
    spans, scores = best_spans(draw(0, 5, dtype=torch.float32), draw(0, 5, dtype=torch.float32), empty, 2)
    assert spans.shape == (0, 2, 2)
    assert scores.shape == (0, 2)
