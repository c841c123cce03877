"""Span decoding against the float64 reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from img_deploy.kernels.best_spans import reference
from img_deploy.kernels.best_spans.kernel import best_spans
from img_deploy.kernels.best_spans.reference import TOLERANCES
from img_deploy.kernels.launch import STORAGE_DTYPES

SIZES = [(1, 1), (2, 3), (3, 1), (3, 7), (7, 5), (16, 2), (31, 1), (64, 5), (127, 1), (128, 3)]


def check_spans(spans: Tensor, expected: Tensor, table: Tensor, mask: Tensor) -> None:
    """Spans are real, distinct and score in float64 what the kernel says; a tie within rounding may change places."""
    for b, row in enumerate(spans.tolist()):
        count = int((expected[b] > 0).sum())
        assert len({tuple(span) for span in row[:count]}) == count, row
        for n, (i, j) in enumerate(row):
            if n >= count:
                assert (i, j) == (0, 0)
                continue
            assert i <= j
            assert mask[b, i]
            assert mask[b, j]
            assert float(table[b, i, j]) == pytest.approx(float(expected[b, n]), rel=2e-5)


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
@pytest.mark.parametrize(("length", "k"), SIZES)
def test_scores_and_spans(
    length: int, k: int, dtype: str, draw: Callable, ragged_mask: Callable, in_float64: Callable, check_close: Callable
) -> None:
    """The kernel misses the best span, breaks start <= end, uses a padded clip or returns what it never wrote."""
    start, end = draw(2, 4, length, dtype=STORAGE_DTYPES[dtype], scale=3.0)
    mask = ragged_mask([length, max(1, length // 2), 0, 1], length)
    spans, scores = best_spans(start, end, mask, k)
    _, expected = in_float64(reference.best_spans, start, end, mask, k)
    check_close(scores, expected, TOLERANCES[dtype], f"scores, L={length} k={k}")
    probabilities = [
        torch.softmax(x.cpu().double().masked_fill(~mask.cpu(), -1e30), -1) * mask.cpu() for x in (start, end)
    ]
    table = probabilities[0][:, :, None] * probabilities[1][:, None, :]
    check_spans(spans.cpu(), expected, table, mask.cpu())


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
