"""Audio importance in one launch, a program per sample."""

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import STORAGE_DTYPES, Shapes, check_inputs, draw_inputs, padded
from img_deploy.kernels.matvec import sigmoid
from img_deploy.kernels.tiles import attention_pool, channels, load_vector
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for


@triton.jit(do_not_specialize=["clips"])
def importance_kernel(
    visual_ptr,  # [B, L, D]
    audio_ptr,  # [B, L, D]
    mask_ptr,  # [B, L] bool
    pool_weight_ptr,  # [2, D]
    weight_ptr,  # [1, 2D], of the audio's pool first
    bias_ptr,  # [1]
    clips,  # L
    out_ptr,  # [B] fp32
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)
    visual_ptr += sample * clips * DIM
    audio_ptr += sample * clips * DIM
    mask_ptr += sample * clips
    seen = attention_pool(visual_ptr, pool_weight_ptr, mask_ptr, clips, channel, real, DIM, ROWS)
    heard = attention_pool(audio_ptr, pool_weight_ptr + DIM, mask_ptr, clips, channel, real, DIM, ROWS)
    products = heard * load_vector(weight_ptr, channel, real) + seen * load_vector(weight_ptr + DIM, channel, real)
    tl.store(out_ptr + sample, sigmoid(tl.sum(products, axis=0) + tl.load(bias_ptr).to(tl.float32)))


def shapes(batch: int, clips: int, dim: int) -> Shapes:
    return {
        "visual": (batch, clips, dim),
        "audio": (batch, clips, dim),
        "mask": (batch, clips),
        "pool_weight": (2, dim),
        "weight": (1, 2 * dim),
        "bias": (1,),
    }


def importance(*inputs: Tensor) -> Tensor:
    """[B] float32. Arguments, in order: see ``reference.py``; at least one clip.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    batch, clips, dim = inputs[0].shape
    if not clips:
        raise ValueError("importance: visual: got no clip, expected at least 1 (its mask may be False)")
    check_inputs("importance", shapes(batch, clips, dim), inputs)
    out = torch.empty(batch, dtype=torch.float32, device=inputs[0].device)
    if batch:
        _launch(inputs, out, config_for("importance", "rows", inputs[0].dtype, out.device))
    return out


def _launch(inputs: tuple[Tensor, ...], out: Tensor, config: LaunchConfig) -> None:
    batch, clips, dim = inputs[0].shape
    importance_kernel[(batch,)](*inputs, clips, out, **constants(dim), **config.launch_options())


def constants(dim: int) -> dict[str, int]:
    """Of the kernel, beside its blocks."""
    return {"DIM": dim, "WIDTH": padded(dim)}


AOT_CASES = (AotCase("importance", "rows", importance_kernel, constants(128), {"mask_ptr": "i1", "out_ptr": "fp32"}),)


def tuning_calls() -> Iterator[TuningCall]:
    """One sample of 128 clips."""
    candidates = tuple(LaunchConfig(warps, 1, {"ROWS": rows}) for warps in (4, 8) for rows in (16, 32, 64, 128))
    for name, dtype in STORAGE_DTYPES.items():
        inputs = tuple(draw_inputs(shapes(1, 128, 128), dtype))
        out = torch.empty(1, dtype=torch.float32, device="cuda")
        yield TuningCall("rows", name, partial(_launch, inputs, out), candidates)
