"""Global fusion against the float64 reference."""

from collections.abc import Callable

import pytest
import torch

from img_deploy.kernels import launch
from img_deploy.kernels.global_fusion import kernel, reference
from img_deploy.kernels.global_fusion.reference import TOLERANCES
from img_deploy.kernels.launch import STORAGE_DTYPES

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
    """The pool, its mask, a half of the projection, a modality or the gate goes wrong."""
    length, dim, dtype, variant = case
    monkeypatch.setattr(launch, "batch_regime", lambda _: variant)
    own = [length, max(1, length // 2), 0]
    inputs = draw_inputs(kernel.shapes(3, length, dim), STORAGE_DTYPES[dtype], own)
    got = kernel.global_fusion(*inputs)
    assert got.dtype == STORAGE_DTYPES[dtype]
    check_close(got, in_float64(reference.global_fusion, *inputs), TOLERANCES[dtype], str(case))


@pytest.mark.parametrize("importance", [0.0, 1.0])
def test_one_modality(importance: float, draw_inputs: Callable) -> None:
    """A modality without importance still moves the result: the gate mixes up its two sides or their weights."""
    inputs = draw_inputs(kernel.shapes(1, 9, 32), torch.float32, [7])
    inputs[2] = torch.full_like(inputs[2], importance)
    before = kernel.global_fusion(*inputs)
    silent = 1 if importance == 0 else 0
    inputs[silent] = inputs[silent] + 1.0
    assert torch.equal(kernel.global_fusion(*inputs), before)
    inputs[1 - silent] = inputs[1 - silent] * 1.5
    assert not torch.equal(kernel.global_fusion(*inputs), before)
