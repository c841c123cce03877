"""Start and end logits in one launch: a program per sample, block of clips and head."""

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import STORAGE_DTYPES, Shapes, check_inputs, draw_inputs, padded
from img_deploy.kernels.tiles import (
    MASKED,
    channels,
    layer_norm,
    linear,
    load_mask,
    load_rows,
    load_vector,
    spread,
)
from img_deploy.kernels.tuning import BATCH_REGIMES, LaunchConfig, TuningCall, batch_regime, config_for


@triton.jit(do_not_specialize=["clips"])
def boundary_logits_kernel(
    first_ptr,  # [B, L, D]
    second_ptr,  # [B, L, D]
    x_ptr,  # [B, L, D]
    mask_ptr,  # [B, L] bool
    start_norm_weight_ptr,  # [D]
    start_norm_bias_ptr,  # [D]
    start_hidden_weight_ptr,  # [D, 2D]
    start_hidden_bias_ptr,  # [D]
    start_weight_ptr,  # [1, D]
    start_bias_ptr,  # [1]
    end_norm_weight_ptr,  # [D]
    end_norm_bias_ptr,  # [D]
    end_hidden_weight_ptr,  # [D, 2D]
    end_hidden_bias_ptr,  # [D]
    end_weight_ptr,  # [1, D]
    end_bias_ptr,  # [1]
    clips,  # L
    start_ptr,  # [B, L] fp32
    end_ptr,  # [B, L] fp32
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    is_end = tl.program_id(2) == 1
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)
    base = sample * clips * DIM
    encoded_ptr = tl.where(is_end, second_ptr, first_ptr) + base
    norm_weight_ptr = tl.where(is_end, end_norm_weight_ptr, start_norm_weight_ptr)
    norm_bias_ptr = tl.where(is_end, end_norm_bias_ptr, start_norm_bias_ptr)
    hidden_weight_ptr = tl.where(is_end, end_hidden_weight_ptr, start_hidden_weight_ptr)
    hidden_bias_ptr = tl.where(is_end, end_hidden_bias_ptr, start_hidden_bias_ptr)
    weight_ptr = tl.where(is_end, end_weight_ptr, start_weight_ptr)
    bias_ptr = tl.where(is_end, end_bias_ptr, start_bias_ptr)
    out_ptr = tl.where(is_end, end_ptr, start_ptr)

    encoded = load_rows(encoded_ptr, rows, clips, channel, real, DIM).to(tl.float32)
    encoded = layer_norm(encoded, norm_weight_ptr, norm_bias_ptr, channel, real, DIM).to(x_ptr.dtype.element_ty)
    acc = spread(load_vector(hidden_bias_ptr, channel, real), ROWS)
    acc = linear(acc, encoded, hidden_weight_ptr, 2 * DIM, DIM, 1, WIDTH, CHUNK)
    x = load_rows(x_ptr + base, rows, clips, channel, real, DIM)
    acc = linear(acc, x, hidden_weight_ptr + DIM, 2 * DIM, DIM, 1, WIDTH, CHUNK)
    logits = tl.sum(tl.maximum(acc, 0.0) * load_vector(weight_ptr, channel, real)[None, :], axis=1)
    logits += tl.load(bias_ptr).to(tl.float32)
    logits = tl.where(load_mask(mask_ptr + sample * clips, rows, clips), logits, MASKED)
    tl.store(out_ptr + sample * clips + rows, logits, mask=rows < clips)


def shapes(batch: int, clips: int, dim: int) -> Shapes:
    heads: Shapes = {}
    for head in ("start", "end"):
        heads |= {
            f"{head}_norm_weight": (dim,),
            f"{head}_norm_bias": (dim,),
            f"{head}_hidden_weight": (dim, 2 * dim),
            f"{head}_hidden_bias": (dim,),
            f"{head}_weight": (1, dim),
            f"{head}_bias": (1,),
        }
    clip = (batch, clips, dim)
    return {"first": clip, "second": clip, "x": clip, "mask": (batch, clips), **heads}


def boundary_logits(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end logits, [B, L] float32. Arguments, in order: see ``reference.py``.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    check_inputs("boundary_logits", shapes(*inputs[0].shape), inputs)
    batch, clips, _ = inputs[0].shape
    start, end = (torch.empty(batch, clips, dtype=torch.float32, device=inputs[0].device) for _ in range(2))
    if start.numel():
        config = config_for("boundary_logits", batch_regime(batch), inputs[0].dtype, start.device)
        _launch(inputs, (start, end), config)
    return start, end


def _launch(inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], config: LaunchConfig) -> None:
    batch, clips, dim = inputs[0].shape
    grid = (batch, triton.cdiv(clips, config.blocks["ROWS"]), 2)
    boundary_logits_kernel[grid](*(*inputs, clips, *outputs), DIM=dim, WIDTH=padded(dim), **config.launch_options())


AOT_CASES = tuple(
    AotCase(
        op="boundary_logits",
        variant=variant,
        kernel=boundary_logits_kernel,
        constexprs={"DIM": 128, "WIDTH": 128},
        pointers={"mask_ptr": "i1", "start_ptr": "fp32", "end_ptr": "fp32"},
    )
    for variant in BATCH_REGIMES
)


def tuning_calls() -> Iterator[TuningCall]:
    """128 clips, of one sample and of 64."""
    for batch in (1, 64):
        for name, dtype in STORAGE_DTYPES.items():
            inputs = tuple(draw_inputs(shapes(batch, 128, 128), dtype))
            outputs = torch.empty(2, batch, 128, dtype=torch.float32, device="cuda").unbind()
            chunks = (16, 32) if dtype == torch.float32 else (64, 128)
            candidates = tuple(
                LaunchConfig(warps, 1, {"ROWS": rows, "CHUNK": chunk})
                for warps in (4, 8)
                for rows in (16, 32, 64)
                for chunk in chunks
            )
            yield TuningCall(batch_regime(batch), name, partial(_launch, inputs, outputs), candidates)
