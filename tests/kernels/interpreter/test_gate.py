"""The gate against the float64 reference."""

from collections.abc import Callable

import pytest
import torch

from img_deploy.kernels import launch
from img_deploy.kernels.gate import kernel, reference
from img_deploy.kernels.gate.reference import TOLERANCES
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
def test_gate(
    case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LayerNorm, a modality or the weight goes wrong, or a clip is left unwritten."""
    length, dim, dtype, variant = case
    monkeypatch.setattr(launch, "batch_regime", lambda _: variant)
    inputs = draw_inputs(kernel.shapes(3, length, dim), STORAGE_DTYPES[dtype], [])
    got = kernel.gate(*inputs)
    assert got.dtype == STORAGE_DTYPES[dtype]
    check_close(got, in_float64(reference.gate, *inputs), TOLERANCES[dtype], str(case))


def test_batch_invariance(draw_inputs: Callable) -> None:
    """A sample's answer depends on its neighbours or on clips past its own."""
    inputs = draw_inputs(kernel.shapes(3, 9, 32), torch.float16, [])
    together = kernel.gate(*inputs)
    alone = [inputs[0][1:2, :5].contiguous(), inputs[1][1:2, :5].contiguous(), inputs[2][1:2], *inputs[3:]]
    assert torch.equal(kernel.gate(*alone), together[1:2, :5])
