"""Local fusion against the float64 reference."""

from collections.abc import Callable

import pytest
import torch

from img_deploy.kernels import launch
from img_deploy.kernels.launch import STORAGE_DTYPES
from img_deploy.kernels.local_fusion import kernel, reference
from img_deploy.kernels.local_fusion.reference import TOLERANCES

# L, D, dtype, variant
CASES = [
    (1, 32, "fp32", "small_batch"),
    (2, 128, "fp16", "large_batch"),
    (3, 32, "bf16", "small_batch"),
    (7, 128, "fp32", "large_batch"),
    (16, 32, "fp16", "small_batch"),
    (31, 128, "bf16", "large_batch"),
    (64, 32, "fp32", "small_batch"),
    (127, 32, "fp16", "large_batch"),
    (128, 128, "fp32", "small_batch"),
    (128, 32, "bf16", "large_batch"),
    (33, 128, "fp16", "small_batch"),
    (17, 48, "fp32", "small_batch"),
    (40, 48, "bf16", "large_batch"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "L{}-D{}-{}-{}".format(*case))
def test_fusion(
    case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tap, a branch, a modality, the mask or the gate goes wrong."""
    length, dim, dtype, variant = case
    monkeypatch.setattr(launch, "batch_regime", lambda _: variant)
    own = [length, max(1, length // 2), 0]
    inputs = draw_inputs(kernel.shapes(3, length, dim), STORAGE_DTYPES[dtype], own)
    got = kernel.local_fusion(*inputs)
    assert got.dtype == STORAGE_DTYPES[dtype]
    check_close(got, in_float64(reference.local_fusion, *inputs), TOLERANCES[dtype], str(case))


@pytest.mark.parametrize("importance", [0.0, 1.0])
def test_one_modality(importance: float, draw_inputs: Callable) -> None:
    """A modality without importance still moves the result: the gate mixes up its two sides or their weights."""
    inputs = draw_inputs(kernel.shapes(1, 9, 32), torch.float32, [7])
    inputs[2] = torch.full_like(inputs[2], importance)
    before = kernel.local_fusion(*inputs)
    silent = 1 if importance == 0 else 0
    inputs[silent] = inputs[silent] + 1.0
    assert torch.equal(kernel.local_fusion(*inputs), before)
    inputs[1 - silent] = inputs[1 - silent] * 1.5
    assert not torch.equal(kernel.local_fusion(*inputs), before)


def test_sums_beyond_fp16(draw_inputs: Callable, in_float64: Callable, check_close: Callable) -> None:
    """Clips that fit fp16 while sums of their taps do not give infinities, which the gate's LayerNorm makes NaN."""
    inputs = draw_inputs(kernel.shapes(2, 20, 32), torch.float16, [20, 11])
    for clips in inputs[:2]:
        clips *= 60000 / clips.abs().max()
    for weight in inputs[4:7]:
        weight *= 4
    expected = in_float64(reference.local_fusion, *inputs)
    check_close(kernel.local_fusion(*inputs), expected, TOLERANCES["fp16"], "clips of 60000")
    check_close(reference.local_fusion(*inputs), expected, TOLERANCES["fp16"], "the reference in fp16")
