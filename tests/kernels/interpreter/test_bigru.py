"""Bidirectional GRU layer against the float64 reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from img_deploy.kernels.bigru import reference
from img_deploy.kernels.bigru.kernel import bigru, gru_recurrence, input_gates
from img_deploy.kernels.bigru.reference import TOLERANCES
from img_deploy.kernels.launch import STORAGE_DTYPES

TOLERANCE = TOLERANCES

# (stacks, hidden, longest, lengths of the samples, dtype): every length and size in fp32 and in a half, some of them in
# each half. fp16 and bf16 take tiles of samples, of which some are not full.
CASES = [
    (3, 64, 1, [1], "fp32"),
    (2, 128, 2, [2, 1], "fp32"),
    (1, 24, 3, [3, 0, 2], "fp32"),
    (3, 16, 7, [7, 1], "fp32"),
    (2, 64, 16, [3, 16], "fp32"),
    (1, 32, 31, [31, 0], "fp32"),
    (3, 16, 64, [64], "fp32"),
    (1, 16, 127, [127], "fp32"),
    (1, 16, 128, [128, 31], "fp32"),
    (3, 64, 1, [1, 0], "fp16"),
    (1, 128, 2, [2, 1, 0, 2, 2, 2, 1, 1, 2], "bf16"),
    (3, 16, 3, [1, 2, 3], "bf16"),
    (2, 64, 7, [7, 0, 3, 5, 1, 7, 6, 2, 4, 7], "fp16"),
    (1, 64, 16, [0, 0], "bf16"),
    (2, 32, 31, [31, 30, 1], "fp16"),
    (1, 16, 64, [64, 63, 3, 2, 1], "bf16"),
    (1, 128, 127, [127, 5], "fp16"),
    (1, 64, 128, [128, 77, 3], "bf16"),
    (1, 24, 9, [9, 4], "bf16"),
]


def layer(draw: Callable, stacks: int, width: int, hidden: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Weights of one layer: weight_ih, weight_hh, bias_ih, bias_hh, of the size a trained network has."""
    return (
        draw(stacks, 2, 3 * hidden, width, dtype=dtype, scale=width**-0.5),
        draw(stacks, 2, 3 * hidden, hidden, dtype=dtype, scale=hidden**-0.5),
        draw(stacks, 2, 3 * hidden, dtype=dtype, scale=0.3),
        draw(stacks, 2, 3 * hidden, dtype=dtype, scale=0.3),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[4]}-S{case[0]}-H{case[1]}-L{case[2]}")
def test_recurrence(case: tuple, draw: Callable, in_float64: Callable, check_close: Callable) -> None:
    """A step, direction, stack or length goes wrong, or clips past a sample's end are not zero."""
    stacks, hidden, length, own, dtype = case
    x = draw(len(own), length, stacks, 20, dtype=STORAGE_DTYPES[dtype])
    lengths = torch.tensor(own, dtype=torch.int32, device=x.device)
    weight_ih, weight_hh, bias_ih, bias_hh = layer(draw, stacks, 20, hidden, STORAGE_DTYPES[dtype])
    got = gru_recurrence(input_gates(x, weight_ih), lengths, weight_hh, bias_ih, bias_hh)
    expected = in_float64(reference.bigru, x, lengths, weight_ih, weight_hh, bias_ih, bias_hh)
    assert got.dtype == x.dtype
    check_close(got, expected, TOLERANCE[dtype], str(case))
    for b, n in enumerate(own):
        assert not got[b, n:].any()


def test_layer_with_saturated_gates(draw: Callable, in_float64: Callable, check_close: Callable) -> None:
    """Gates far outside the range of the exponential give NaN instead of 0 and 1."""
    x = draw(2, 5, 1, 8, dtype=torch.float32, scale=500.0)
    lengths = torch.tensor([5, 3], dtype=torch.int32, device=x.device)
    weights = layer(draw, 1, 8, 16, torch.float32)
    got = bigru(x, lengths, *weights)
    check_close(got, in_float64(reference.bigru, x, lengths, *weights), TOLERANCE["fp32"], "saturated")


def test_lengths_beyond_the_tensor(draw: Callable) -> None:
    """A length above L or below 0 reads or writes outside the tensors."""
    x = draw(3, 4, 1, 8, dtype=torch.float32)
    weights = layer(draw, 1, 8, 16, torch.float32)
    wild = torch.tensor([9, -2, 4], dtype=torch.int32, device=x.device)
    got = bigru(x, wild, *weights)
    assert torch.equal(got, bigru(x, wild.clamp(0, 4), *weights))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_batch_invariance(dtype: str, draw: Callable) -> None:
    """A sample's states depend on which others, or how much padding, it is batched with."""
    storage = STORAGE_DTYPES[dtype]
    gates = draw(2, 9, 6, 2, 48, dtype=storage)
    lengths = torch.tensor([6, 1, 4, 6, 0, 2, 3, 6, 5], dtype=torch.int32, device=gates.device)
    weights = draw(2, 2, 48, 16, dtype=storage, scale=0.25), *draw(2, 2, 2, 48, dtype=storage)
    together = gru_recurrence(gates, lengths, *weights)
    alone = gru_recurrence(gates[:, 2:3, :4], lengths[2:3], *weights)
    assert torch.equal(together[2:3, :4], alone)


def test_input_need_not_be_contiguous(draw: Callable, in_float64: Callable, check_close: Callable) -> None:
    """The host function reads a transposed tensor as if it were contiguous."""
    x = draw(5, 2, 2, 8, dtype=torch.float32).permute(1, 0, 2, 3)
    lengths = torch.tensor([5, 3], device=x.device)
    weights = layer(draw, 2, 8, 16, torch.float32)
    weights = tuple(w.transpose(-1, -2).contiguous().transpose(-1, -2) for w in weights)
    check_close(bigru(x, lengths, *weights), in_float64(reference.bigru, x, lengths, *weights), TOLERANCE["fp32"])


def test_nothing_to_do(draw: Callable, device: torch.device) -> None:
    """An empty batch launches an empty grid."""
    got = bigru(
        draw(0, 4, 1, 8, dtype=torch.float32),
        torch.zeros(0, dtype=torch.int32, device=device),
        *layer(draw, 1, 8, 16, torch.float32),
    )
    assert got.shape == (0, 4, 1, 32)


def test_too_wide_a_layer_is_refused(draw: Callable, device: torch.device) -> None:
    """A hidden size whose weights do not fit compiles for minutes and spills, or fails inside the compiler."""
    lengths = torch.ones(1, dtype=torch.int32, device=device)
    weight, bias = draw(1, 2, 768, 256, dtype=torch.float32), draw(1, 2, 768, dtype=torch.float32)
    with pytest.raises(ValueError, match="256"):
        gru_recurrence(draw(1, 1, 1, 2, 768, dtype=torch.float32), lengths, weight, bias, bias)
