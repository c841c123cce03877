"""Audio importance against the float64 reference."""

from collections.abc import Callable

import pytest
import torch

from img_deploy.kernels.importance import kernel, reference
from img_deploy.kernels.importance.reference import TOLERANCES
from img_deploy.kernels.launch import STORAGE_DTYPES

# L, D, dtype
CASES = [
    (1, 32, "fp32"),
    (2, 128, "fp16"),
    (3, 32, "bf16"),
    (7, 128, "fp32"),
    (16, 32, "fp16"),
    (31, 128, "bf16"),
    (64, 48, "fp32"),
    (127, 32, "fp16"),
    (128, 128, "fp32"),
    (128, 32, "bf16"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "L{}-D{}-{}".format(*case))
def test_importance(case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable) -> None:
    """A pool, its mask, a modality or the order of the projection's halves goes wrong."""
    length, dim, dtype = case
    own = [length, max(1, length // 2), 0]
    inputs = draw_inputs(kernel.shapes(3, length, dim), STORAGE_DTYPES[dtype], own)
    got = kernel.importance(*inputs)
    assert got.dtype == torch.float32
    check_close(got, in_float64(reference.importance, *inputs), TOLERANCES[dtype], str(case))


def test_batch_invariance(draw_inputs: Callable) -> None:
    """A sample's importance depends on its neighbours or on its padding."""
    inputs = draw_inputs(kernel.shapes(3, 90, 32), torch.float32, [90, 20, 3])
    together = kernel.importance(*inputs)
    alone = [part[1:2, :20].contiguous() for part in inputs[:3]]
    torch.testing.assert_close(kernel.importance(*alone, *inputs[3:]), together[1:2], atol=1e-6, rtol=0)
