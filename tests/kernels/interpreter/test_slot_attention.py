"""Slot attention against the float64 reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from img_deploy.kernels.launch import STORAGE_DTYPES
from img_deploy.kernels.slot_attention import reference
from img_deploy.kernels.slot_attention.kernel import slot_attention
from img_deploy.kernels.slot_attention.reference import TOLERANCES

# (slots, D, longest, lengths of the samples, iterations, dtype, variant): every slot count, D, length and dtype
CASES = [
    (1, 32, 1, [1], 3, "fp32", "one_slot"),
    (2, 128, 2, [2, 1], 3, "fp32", "one_slot"),
    (3, 32, 3, [3, 0, 2], 3, "fp32", "one_slot"),
    (4, 48, 7, [7], 2, "fp32", "one_slot"),
    (5, 32, 16, [16, 9], 1, "fp32", "one_slot"),
    (3, 32, 31, [31, 4], 3, "bf16", "one_slot"),
    (2, 32, 64, [64, 0], 1, "fp32", "one_slot"),
    (1, 128, 127, [127], 1, "fp32", "one_slot"),
    (1, 32, 128, [128, 64], 2, "fp16", "one_slot"),
    (1, 128, 1, [1], 3, "fp16", "rows"),
    (2, 32, 2, [2, 0], 3, "bf16", "rows"),
    (3, 128, 3, [3, 1], 3, "fp16", "rows"),
    (4, 32, 7, [7, 0, 5], 3, "fp16", "rows"),
    (5, 128, 16, [16], 3, "bf16", "rows"),
    (3, 48, 31, [31, 17], 3, "fp16", "rows"),
    (3, 128, 64, [64, 33], 3, "fp16", "rows"),
    (3, 128, 127, [127, 1], 3, "bf16", "rows"),
    (3, 128, 128, [128], 3, "fp16", "rows"),
    (17, 32, 5, [5], 1, "fp16", "rows"),
    (1, 16, 150, [150, 129], 2, "fp16", "rows"),  # more clips than are kept
]


def arguments(draw: Callable, dim: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """All weights in the schema's order, of the size a trained network has."""

    def weight(*shape: int) -> Tensor:
        return draw(*shape, dtype=dtype, scale=dim**-0.5)

    # Of the query's and the keys' weights, and the scale of the scores.
    query = draw(2, dim, dim, dtype=dtype, scale=1 / dim), draw(2, dim, dtype=dtype, scale=1 / dim)
    gru = weight(2, 3 * dim, dim), weight(2, 3 * dim, dim), weight(2, 3 * dim), weight(2, 3 * dim)
    return (*query, *gru, weight(2, 2, dim, dim), weight(2, 2, dim))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[6]}-{case[5]}-K{case[0]}-D{case[1]}-L{case[2]}")
def test_slots(case: tuple, draw: Callable, ragged_mask: Callable, in_float64: Callable, check_close: Callable) -> None:
    """A product, LayerNorm, gate, mask or modality goes wrong, or a slot is left unwritten."""
    count, dim, length, own, iterations, dtype, variant = case
    visual, audio = (draw(len(own), length, dim, dtype=STORAGE_DTYPES[dtype]) * 2 + 0.5 for _ in range(2))
    mask = ragged_mask(own, length)
    slots = draw(2, len(own), count, dim, dtype=STORAGE_DTYPES[dtype])
    given = (visual, audio, mask, slots, *arguments(draw, dim, STORAGE_DTYPES[dtype]), iterations)
    got = slot_attention(*given, variant=variant)
    expected = in_float64(reference.slot_attention, *given)
    assert got.dtype == visual.dtype
    check_close(got, expected, TOLERANCES[dtype], str(case))


@pytest.mark.parametrize(("dtype", "variant"), [("fp32", "one_slot"), ("fp16", "rows")])
def test_batch_invariance(dtype: str, variant: str, draw: Callable, ragged_mask: Callable) -> None:
    """A sample's slots depend on which others, or on what values, its batch holds past its end."""
    visual, audio = draw(2, 3, 9, 32, dtype=STORAGE_DTYPES[dtype])
    slots, weights = draw(2, 3, 2, 32, dtype=STORAGE_DTYPES[dtype]), arguments(draw, 32, STORAGE_DTYPES[dtype])
    together = slot_attention(visual, audio, ragged_mask([9, 5, 2], 9), slots, *weights, 2, variant=variant)
    alone = slot_attention(
        visual[1:2, :5], audio[1:2, :5], ragged_mask([5], 5), slots[:, 1:2], *weights, 2, variant=variant
    )
    assert torch.equal(together[:, 1:2], alone)


def test_wrong_shapes_are_refused(draw: Callable, ragged_mask: Callable) -> None:
    """A weight of another size is read past its end."""
    visual = draw(1, 4, 32, dtype=torch.float32)
    slots, weights = draw(2, 1, 3, 32, dtype=torch.float32), list(arguments(draw, 32, torch.float32))
    weights[2] = weights[2][:, :64]
    with pytest.raises(ValueError, match="gru_weight_ih"):
        slot_attention(visual, visual, ragged_mask([4], 4), slots, *weights, 3)
    wide = draw(1, 4, 256, dtype=torch.float32)
    with pytest.raises(ValueError, match="256"):
        slot_attention(wide, wide, ragged_mask([4], 4), slots, *weights, 3)
