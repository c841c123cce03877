"""Start and end logits against the float64 reference."""

from collections.abc import Callable

import pytest
import torch

from img_deploy.kernels.boundary_logits import kernel, reference
from img_deploy.kernels.boundary_logits.reference import TOLERANCES
from img_deploy.kernels.dtypes import MASKED
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
    (33, 48, "fp32", "small_batch"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "L{}-D{}-{}-{}".format(*case))
def test_heads(
    case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head takes the other's clips or weights, a half of its product is missing, or the mask is."""
    length, dim, dtype, variant = case
    monkeypatch.setattr(kernel, "batch_regime", lambda _: variant)
    inputs = draw_inputs(kernel.shapes(3, length, dim), STORAGE_DTYPES[dtype], [length, max(1, length // 2), 0])
    found = kernel.boundary_logits(*inputs)
    mask = inputs[3].cpu()
    for got, expected in zip(found, in_float64(reference.boundary_logits, *inputs), strict=True):
        assert got.dtype == torch.float32
        assert (got.cpu()[~mask] == torch.tensor(MASKED)).all()
        check_close(got.cpu()[mask], expected[mask], TOLERANCES[dtype], str(case))
