"""Stack of convolutions against the float64 reference."""

from collections.abc import Callable

import pytest
import torch

from img_deploy.kernels import launch
from img_deploy.kernels.conv_block import kernel, reference
from img_deploy.kernels.conv_block.reference import TOLERANCES
from img_deploy.kernels.launch import STORAGE_DTYPES
from img_deploy.kernels.tuning import config_for

# L, D, layers, taps, dtype, variant; from 33 and 65 clips on, a sample takes several programs that share neighbours
CASES = [
    (1, 128, 2, 7, "fp32", "small_batch"),
    (2, 32, 4, 7, "fp16", "small_batch"),
    (3, 128, 4, 7, "bf16", "large_batch"),
    (7, 32, 2, 7, "fp32", "large_batch"),
    (16, 128, 2, 7, "fp16", "large_batch"),
    (31, 32, 4, 7, "bf16", "small_batch"),
    (32, 32, 4, 7, "fp32", "small_batch"),
    (33, 32, 4, 7, "fp32", "small_batch"),
    (64, 32, 2, 7, "fp16", "small_batch"),
    (64, 128, 4, 7, "bf16", "large_batch"),
    (65, 32, 2, 7, "fp32", "large_batch"),
    (127, 32, 2, 7, "bf16", "small_batch"),
    (127, 128, 4, 7, "fp32", "small_batch"),
    (128, 32, 4, 7, "fp32", "large_batch"),
    (128, 128, 2, 7, "fp16", "small_batch"),
    (40, 48, 2, 7, "fp32", "small_batch"),
    (20, 48, 3, 5, "fp16", "large_batch"),
    (90, 32, 6, 7, "fp32", "small_batch"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "L{}-D{}-n{}-K{}-{}-{}".format(*case))
def test_stack(
    case: tuple, draw_inputs: Callable, in_float64: Callable, check_close: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer, a tap, the mask or the neighbours at the seam between two programs go wrong."""
    length, dim, layers, taps, dtype, variant = case
    monkeypatch.setattr(launch, "batch_regime", lambda _: variant)
    own = [length, max(1, length // 2), 0] if length < 100 else [length, length // 2]
    positions = 1 if layers == 2 else length + 3
    inputs = draw_inputs(kernel.shapes(len(own), length, dim, layers, taps, positions), STORAGE_DTYPES[dtype], own)
    got = kernel.conv_block(*inputs)
    assert got.dtype == STORAGE_DTYPES[dtype]
    check_close(got, in_float64(reference.conv_block, *inputs), TOLERANCES[dtype], str(case))


def test_hole_in_the_mask(draw_inputs: Callable, in_float64: Callable, check_close: Callable) -> None:
    """A masked clip between real ones is convolved with, although the LayerNorm's bias makes it anything but zero."""
    inputs = draw_inputs(kernel.shapes(1, 50, 32, 2, 7), torch.float32, [50])
    inputs[1][:, 20:23] = False
    got = kernel.conv_block(*inputs)
    check_close(got, in_float64(reference.conv_block, *inputs), TOLERANCES["fp32"], "hole")


def test_program_keeps_to_its_rows(draw_inputs: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program also writes clips of its halo, which are wrong: on a GPU it races with the one that owns them."""
    inputs = draw_inputs(kernel.shapes(1, 70, 32, 2, 7), torch.float32, [70])
    monkeypatch.setattr(kernel.triton, "cdiv", lambda *_: 1)
    first = kernel.conv_block(*inputs)
    monkeypatch.undo()
    written = ~first.isnan().any(dim=-1)[0].cpu()
    own = config_for("conv_block", "small_batch", torch.float32, first.device).blocks["ROWS"] - 2 * 2 * 3
    assert written.tolist() == [clip < own for clip in range(70)]


def test_refuses_even_taps(draw_inputs: Callable) -> None:
    """An even number of taps has no centre: the kernel would shift every clip by half a step."""
    inputs = draw_inputs(kernel.shapes(1, 9, 32, 2, 6), torch.float32, [9])
    with pytest.raises(ValueError, match="got 6 taps, expected an odd number"):
        kernel.conv_block(*inputs)


def test_refuses_too_few_positions(draw_inputs: Callable) -> None:
    """Rows past the end of the table are read for a video longer than it."""
    inputs = draw_inputs(kernel.shapes(1, 9, 32, 2, 7, positions=8), torch.float32, [9])
    with pytest.raises(ValueError, match="position: got 8 rows"):
        kernel.conv_block(*inputs)
