"""What the host side of the fused blocks checks and chooses, without a GPU and without Triton."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from img_deploy.kernels.launch import check_inputs, draw_inputs, padded
from img_deploy.kernels.tuning import LARGE_BATCH, batch_regime

SHAPES = {"x": (2, 5, 8), "mask": (2, 5), "importance": (2,), "out_weight": (8, 8), "out_bias": (8,)}


def drawn(dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    return dict(zip(SHAPES, draw_inputs(SHAPES, dtype, "cpu"), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_good_inputs_pass(dtype: torch.dtype) -> None:
    """A tensor as the network has it is refused: importance in float32 or the storage dtype, None where optional."""
    inputs = drawn(dtype)
    check_inputs("op", SHAPES, list(inputs.values()))
    inputs["importance"] = inputs["importance"].float()
    check_inputs("op", SHAPES, list(inputs.values()))
    check_inputs("op", SHAPES, [*list(inputs.values())[:-1], None])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("x", torch.zeros(2, 5, 8, dtype=torch.float64), "op: x: got torch.float64, expected float32, float16 or bf"),
        ("mask", torch.zeros(2, 5), r"op: mask: got torch.float32, expected torch.bool; convert it"),
        ("mask", torch.zeros(2, 6, dtype=torch.bool), r"op: mask: got shape \[2, 6\], expected \[2, 5\]"),
        ("importance", torch.zeros(2, dtype=torch.bfloat16), "op: importance: got torch.bfloat16"),
        ("out_weight", torch.zeros(8, 8), "op: out_weight: got torch.float32, expected torch.float16"),
        ("out_weight", torch.zeros(8, 8).half().t(), r"op: out_weight: strides \[1, 8\].*call .contiguous"),
        ("out_bias", torch.zeros(8, dtype=torch.float16, device="meta"), "op: out_bias: on meta, expected cpu"),
    ],
)
def test_bad_inputs_are_named(name: str, tensor: Tensor, message: str) -> None:
    """The kernel reads memory that is not there, or reads it as something else, instead of an error that says so."""
    inputs = {**drawn(), name: tensor}
    with pytest.raises(ValueError, match=message):
        check_inputs("op", SHAPES, list(inputs.values()))


def test_missing_inputs() -> None:
    """A call with too few tensors is matched to the wrong names."""
    with pytest.raises(ValueError, match="got 4 tensors, expected 5: x, mask"):
        check_inputs("op", SHAPES, list(drawn().values())[:-1])


@given(st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_padded_is_the_least_power_of_two(size: int) -> None:
    """A tile is too narrow for its channels, wider than it has to be, or below what a matrix product takes."""
    width = padded(size)
    assert width & (width - 1) == 0
    assert width >= max(16, size)
    assert width == 16 or width // 2 < size


def test_variant_by_batch() -> None:
    """A batch takes a variant that no tuning table has, or the largest takes the one made for a single sample."""
    assert {batch_regime(batch) for batch in (1, 2, LARGE_BATCH - 1)} == {"small_batch"}
    assert {batch_regime(batch) for batch in (LARGE_BATCH, 256)} == {"large_batch"}
