"""Local fusion against the float64 reference."""

from collections.abc import Callable

import pytest
import torch

from img_deploy.kernels.local_fusion import kernel, reference
from img_deploy.kernels.local_fusion.tolerances import TOLERANCES

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# L, D, dtype, variant
CASES = [
    (1, 32, "fp32", "few"),
    (2, 128, "fp16", "many"),
    (3, 32, "bf16", "few"),
    (7, 128, "fp32", "many"),
    (16, 32, "fp16", "few"),
    (31, 128, "bf16", "many"),
    (64, 32, "fp32", "few"),
    (127, 32, "fp16", "many"),
    (128, 128, "fp32", "few"),
    (128, 32, "bf16", "many"),
    (33, 128, "fp16", "few"),
    (17, 48, "fp32", "few"),
    (40, 48, "bf16", "many"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "L{}-D{}-{}-{}".format(*case))
def test_fusion(
    case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tap, a branch, a modality, the mask or the gate goes wrong."""
    length, dim, dtype, variant = case
    monkeypatch.setattr(kernel, "crowd", lambda _: variant)
    own = [length, max(1, length // 2), 0]
    inputs = draw_inputs(kernel.shapes(3, length, dim), DTYPES[dtype], own)
    got = kernel.local_fusion(*inputs)
    assert got.dtype == DTYPES[dtype]
    check_close(got, in_float64(reference.local_fusion, *inputs), TOLERANCES["triton"][dtype], str(case))


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
