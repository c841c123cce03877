"""Attention block against the float64 reference."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from img_deploy.kernels import launch
from img_deploy.kernels.attention_block import kernel, reference
from img_deploy.kernels.attention_block.reference import TOLERANCES
from img_deploy.kernels.launch import STORAGE_DTYPES

# (queries, keys; None: self-attention), D, heads, dtype, variant
CASES = [
    ((1, None), 32, 4, "fp32", "small_batch"),
    ((2, None), 128, 8, "fp16", "large_batch"),
    ((3, None), 32, 8, "bf16", "small_batch"),
    ((7, None), 128, 4, "fp32", "large_batch"),
    ((16, None), 32, 4, "fp16", "small_batch"),
    ((31, None), 128, 8, "bf16", "large_batch"),
    ((64, None), 32, 8, "fp32", "small_batch"),
    ((127, None), 32, 4, "bf16", "large_batch"),
    ((128, None), 128, 8, "fp16", "small_batch"),
    ((128, None), 32, 4, "fp32", "large_batch"),
    ((1, 1), 128, 4, "bf16", "small_batch"),
    ((3, 128), 32, 4, "fp16", "large_batch"),
    ((33, 3), 128, 8, "fp32", "small_batch"),
    ((64, 7), 128, 8, "fp16", "large_batch"),
    ((16, 31), 128, 4, "bf16", "large_batch"),
    ((127, 16), 32, 8, "fp32", "large_batch"),
    ((2, 64), 32, 8, "fp16", "small_batch"),
    ((7, 127), 128, 8, "fp32", "small_batch"),
    ((20, 37), 48, 4, "fp32", "small_batch"),
    ((37, 20), 48, 8, "fp16", "large_batch"),
    ((5, None), 48, 6, "bf16", "small_batch"),
]
CONTEXT = ("context", "norm_context_weight", "norm_context_bias")


def block_inputs(draw_inputs: Callable, lengths: tuple, dim: int, dtype: str, absent: tuple[str, ...] = ()) -> list:
    """Two samples, or three if they are short: half of the keys real, none, all."""
    queries, keys = lengths[0], lengths[1] or lengths[0]
    absent = (*absent, *(CONTEXT if lengths[1] is None else ()))
    real = [max(1, keys // 2), 0, keys][: 3 if max(queries, keys) < 100 else 2]
    shapes = kernel.shapes(len(real), queries, keys, dim)
    drawn = draw_inputs(shapes, STORAGE_DTYPES[dtype], real)
    return [None if name in absent else tensor for name, tensor in zip(shapes, drawn, strict=True)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-D{case[1]}-H{case[2]}-{case[3]}-{case[4]}")
def test_block(
    case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head, a block of keys, the mask, a LayerNorm or a residual goes wrong at some length, size or dtype."""
    lengths, dim, heads, dtype, variant = case
    monkeypatch.setattr(launch, "batch_regime", lambda _: variant)
    inputs = block_inputs(draw_inputs, lengths, dim, dtype)
    got = kernel.attention_block(*inputs, heads)
    assert got.dtype == STORAGE_DTYPES[dtype]
    check_close(got, in_float64(reference.attention_block, *inputs, heads), TOLERANCES[dtype], str(case))


@pytest.mark.parametrize("keys", [None, 1, 2, 3, 4, 5, 40])
def test_without_mask(keys: int | None, draw_inputs: Callable, in_float64: Callable, check_close: Callable) -> None:
    """Without a mask (event slots) some key is not attended to, or one past the end is."""
    inputs = block_inputs(draw_inputs, (18, keys), 32, "fp32", absent=("context_mask",))
    got = kernel.attention_block(*inputs, 4)
    check_close(got, in_float64(reference.attention_block, *inputs, 4), TOLERANCES["fp32"], f"{keys} keys")


def test_large_scores(draw_inputs: Callable, in_float64: Callable, check_close: Callable) -> None:
    """Scores far apart overflow the exponential, or a running maximum that grows block by block loses a share."""
    inputs = block_inputs(draw_inputs, (5, 70), 32, "fp32")
    inputs[7] = inputs[7] * 6.0
    got = kernel.attention_block(*inputs, 4)
    assert got.isfinite().all()
    expected = in_float64(reference.attention_block, *inputs, 4)
    tolerance = TOLERANCES["fp32"]
    check_close(got, expected, replace(tolerance, absolute=36 * tolerance.absolute), "scores 36 times as large")


@pytest.mark.parametrize(
    ("position", "broken", "message"),
    [
        (0, lambda x: x.double(), "x: got torch.float64"),
        (1, lambda x: x.half(), "context: got torch.float16"),
        (2, lambda x: x.float(), "context_mask: got torch.float32"),
        (5, lambda x: None, "give all"),  # noqa: ARG005
        (7, lambda x: x[:-1], "qkv_weight: got shape"),
        (11, lambda x: x.t(), "out_weight: strides"),
    ],
)
def test_refuses(position: int, broken: Callable, message: str, draw_inputs: Callable) -> None:
    """A tensor that the kernel would misread is taken without a word."""
    inputs = block_inputs(draw_inputs, (4, 5), 32, "fp32")
    inputs[position] = broken(inputs[position])
    with pytest.raises(ValueError, match=message):
        kernel.attention_block(*inputs, 4)
