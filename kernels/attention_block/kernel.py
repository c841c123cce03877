"""The attention block in one launch: one program per sample and block of query rows, all heads side by side."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import Shapes, calls_of, padded, run_over_rows
from img_deploy.kernels.tiles import (
    MASKED,
    channels,
    layer_norm,
    linear,
    load_mask,
    load_rows,
    load_vector,
    mask_scores,
    spread,
    store_rows,
)
from img_deploy.kernels.tuning import BATCH_REGIMES, LaunchConfig, TuningCall


@triton.jit(do_not_specialize=["clips", "context_clips"])
def attention_block_kernel(
    x_ptr,  # [B, L, D]
    context_ptr,  # [B, M, D], None: x itself
    context_mask_ptr,  # [B, M] bool, None: all real
    norm_x_weight_ptr,  # [D], like all norms
    norm_x_bias_ptr,
    norm_context_weight_ptr,
    norm_context_bias_ptr,
    qkv_weight_ptr,  # [3D, D]
    qkv_bias_ptr,  # [3D]
    norm_out_weight_ptr,
    norm_out_bias_ptr,
    out_weight_ptr,  # [D, D]
    out_bias_ptr,  # [D]
    clips,  # L
    context_clips,  # M
    out_ptr,  # [B, L, D]
    DIM: tl.constexpr,
    HEADS: tl.constexpr,
    HEADS_PAD: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,  # at a time, of x itself
    CONTEXT_KEYS: tl.constexpr,  # and of a context: words or slots, which are fewer
    CHUNK: tl.constexpr,
):
    WIDTH: tl.constexpr = HEADS_PAD * HEAD_PAD
    BLOCK: tl.constexpr = KEYS if context_ptr is None else CONTEXT_KEYS
    storage = x_ptr.dtype.element_ty
    sample = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channel, real = channels(tl.arange(0, WIDTH), DIM, HEADS, HEAD_PAD)
    x = load_rows(x_ptr + sample * clips * DIM, rows, clips, channel, real, DIM).to(tl.float32)

    normed = layer_norm(x, norm_x_weight_ptr, norm_x_bias_ptr, channel, real, DIM).to(storage)
    query = spread(load_vector(qkv_bias_ptr, channel, real), ROWS)
    query = linear(query, normed, qkv_weight_ptr, DIM, DIM, HEADS, HEAD_PAD, CHUNK).to(storage)
    query = tl.permute(tl.reshape(query, [ROWS, HEADS_PAD, HEAD_PAD]), (1, 0, 2))  # [H, ROWS, D/H]

    best = tl.full([HEADS_PAD, ROWS], MASKED, tl.float32)
    total = tl.zeros([HEADS_PAD, ROWS], tl.float32)
    attended = tl.zeros([HEADS_PAD, ROWS, HEAD_PAD], tl.float32)
    for start in range(0, context_clips, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        if context_ptr is None:
            source = load_rows(x_ptr + sample * clips * DIM, keys, context_clips, channel, real, DIM).to(tl.float32)
            source = layer_norm(source, norm_x_weight_ptr, norm_x_bias_ptr, channel, real, DIM)
        else:
            source = load_rows(context_ptr + sample * context_clips * DIM, keys, context_clips, channel, real, DIM)
            source = source.to(tl.float32)
            source = layer_norm(source, norm_context_weight_ptr, norm_context_bias_ptr, channel, real, DIM)
        source = source.to(storage)
        key = spread(load_vector(qkv_bias_ptr + DIM, channel, real), BLOCK)
        key = linear(key, source, qkv_weight_ptr + DIM * DIM, DIM, DIM, HEADS, HEAD_PAD, CHUNK).to(storage)
        key = tl.permute(tl.reshape(key, [BLOCK, HEADS_PAD, HEAD_PAD]), (1, 2, 0))  # [H, D/H, BLOCK]
        value = spread(load_vector(qkv_bias_ptr + 2 * DIM, channel, real), BLOCK)
        value = linear(value, source, qkv_weight_ptr + 2 * DIM * DIM, DIM, DIM, HEADS, HEAD_PAD, CHUNK).to(storage)
        value = tl.permute(tl.reshape(value, [BLOCK, HEADS_PAD, HEAD_PAD]), (1, 0, 2))  # [H, BLOCK, D/H]

        scores = tl.dot(query, key, input_precision="ieee") * (DIM // HEADS) ** -0.5  # [H, ROWS, BLOCK]
        keep = keys < context_clips
        if context_mask_ptr is not None:
            keep = load_mask(context_mask_ptr + sample * context_clips, keys, context_clips)
        scores = mask_scores(scores, keep[None, None, :], (keys < context_clips)[None, None, :])
        higher = tl.maximum(best, tl.max(scores, axis=2))
        shrink = tl.exp(best - higher)
        weights = tl.exp(scores - higher[:, :, None])
        total = total * shrink + tl.sum(weights, axis=2)
        attended = tl.dot(weights.to(storage), value, attended * shrink[:, :, None], input_precision="ieee")
        best = higher

    attended = attended / total[:, :, None]
    residual = tl.reshape(tl.permute(attended, (1, 0, 2)), [ROWS, WIDTH]) + x
    hidden = layer_norm(residual, norm_out_weight_ptr, norm_out_bias_ptr, channel, real, DIM).to(storage)
    out = residual + load_vector(out_bias_ptr, channel, real)[None, :]
    out = linear(out, hidden, out_weight_ptr, DIM, DIM, HEADS, HEAD_PAD, CHUNK)
    store_rows(out_ptr + sample * clips * DIM, out, rows, 0, clips, channel, real, DIM)


def shapes(batch: int, clips: int, context_clips: int, dim: int) -> Shapes:
    return {
        "x": (batch, clips, dim),
        "context": (batch, context_clips, dim),
        "context_mask": (batch, context_clips),
        "norm_x_weight": (dim,),
        "norm_x_bias": (dim,),
        "norm_context_weight": (dim,),
        "norm_context_bias": (dim,),
        "qkv_weight": (3 * dim, dim),
        "qkv_bias": (3 * dim,),
        "norm_out_weight": (dim,),
        "norm_out_bias": (dim,),
        "out_weight": (dim, dim),
        "out_bias": (dim,),
    }


def constants(dim: int, heads: int) -> dict[str, int]:
    """Of the kernel, beside its blocks."""
    return {
        "DIM": dim,
        "HEADS": heads,
        "HEADS_PAD": triton.next_power_of_2(heads),
        "HEAD_PAD": padded(dim // heads),
    }


def attention_block(x: Tensor, *others: Any) -> Tensor:
    """Self- or cross-attention over at least one key. Arguments, in order, and result: see ``reference.py``.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads, ``heads`` does not
            divide D, or of ``context`` and its LayerNorm only a part is given.
    """
    heads: int = others[-1]
    inputs: list[Tensor | None] = [x, *others[:-1]]
    context, norm_weight, norm_bias = inputs[1], *inputs[5:7]
    batch, clips, dim = x.shape
    context_clips = clips if context is None else context.shape[1]
    if heads < 1 or dim % heads:
        raise ValueError(f"attention_block: heads: got {heads}, expected a divisor of {dim} channels")
    if len({tensor is None for tensor in (context, norm_weight, norm_bias)}) == 2:
        raise ValueError("attention_block: got a part of context, norm_context_weight and norm_context_bias; give all")
    if clips and not context_clips:
        raise ValueError("attention_block: context: got no position, expected at least 1 (its mask may be False)")
    return run_over_rows(
        "attention_block", shapes(batch, clips, context_clips, dim), inputs, partial(_launch, heads=heads)
    )


def _launch(inputs: Sequence[Tensor | None], out: Tensor, config: LaunchConfig, heads: int) -> None:
    batch, clips, dim = out.shape
    context_clips = clips if inputs[1] is None else inputs[1].shape[1]
    attention_block_kernel[(batch, triton.cdiv(clips, config.blocks["ROWS"]))](
        *(*inputs, clips, context_clips, out), **constants(dim, heads), **config.launch_options()
    )


_NO_CONTEXT = {"context_ptr": None, "norm_context_weight_ptr": None, "norm_context_bias_ptr": None}

AOT_CASES = tuple(
    AotCase(
        op="attention_block",
        variant=variant,
        kernel=attention_block_kernel,
        constexprs={**constants(128, 8), **absent},
        pointers={"context_mask_ptr": "i1"},
    )
    for variant in BATCH_REGIMES
    for absent in (_NO_CONTEXT, {}, {"context_mask_ptr": None})
)


def tuning_calls() -> Iterator[TuningCall]:
    """128 clips that attend to 128."""
    return calls_of(
        lambda batch: shapes(batch, 128, 128, 128), partial(_launch, heads=8), KEYS=(32, 64, 128), CONTEXT_KEYS=(16,)
    )
