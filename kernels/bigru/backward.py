"""The part of the GRU layer's gradient that runs from step to step, for training on a GPU: one launch for all steps.

All states are known by then, so what each step multiplies a state's gradient by is known for all steps beforehand. A
program is one direction of one stack over one sample; its recurrent weights stay in registers for all steps, and what
the next step reads is loaded ahead. Plain float32 products, no tensor cores.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.launch import padded
from img_deploy.kernels.matvec import in_chunks, load_weight, product
from img_deploy.kernels.tuning import config_for


@triton.jit
def _load_step(upstream, stay, factor, live, H: tl.constexpr):
    """What one step reads, each [BLOCK_H]: ``upstream``, ``stay`` and the factors of r, z, n."""
    above = tl.load(upstream, mask=live, other=0.0)
    kept = tl.load(stay, mask=live, other=0.0)
    r = tl.load(factor, mask=live, other=0.0)
    return above, kept, r, tl.load(factor + H, mask=live, other=0.0), tl.load(factor + 2 * H, mask=live, other=0.0)


@triton.jit(do_not_specialize=["batch", "length"])
def gru_backward(
    upstream_ptr,  # [2S, B, L, H] gradient of the states
    factors_ptr,  # [2S, B, L, 3, H] gradient of the state's product with the weights, per gradient of the state
    stay_ptr,  # [2S, B, L, H] gradient of the last state besides through that product, likewise
    weight_ptr,  # [2S, 3, H, H] of r, z, n: row k has the weights of unit k of the last state
    batch,
    length,
    inner_ptr,  # [2S, B, L, 3, H] gradient of the product
    total_ptr,  # [2S, B, L, H] gradient of the states, through all later steps
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,  # power of two >= H
    BLOCK_K: tl.constexpr,  # columns of weight per piece: 16 bytes for each thread that shares a row
):
    sample, way = tl.program_id(0), tl.program_id(1)  # way: 2 * stack + direction
    COUNT: tl.constexpr = BLOCK_H // BLOCK_K
    unit = tl.arange(0, BLOCK_H)
    is_unit = unit < H
    matrix = weight_ptr + way * 3 * H * H
    weight_r = load_weight(matrix, 0, unit, H, COUNT, BLOCK_K)
    weight_z = load_weight(matrix, H, unit, H, COUNT, BLOCK_K)
    weight_n = load_weight(matrix, 2 * H, unit, H, COUNT, BLOCK_K)

    backward = way % 2  # the backward direction ended at the first clip, the forward one at the last
    advance = 2 * backward - 1
    row = (way * batch + sample).to(tl.int64) * length + tl.where(backward == 1, 0, length - 1)
    upstream, stay, total_at = upstream_ptr + row * H + unit, stay_ptr + row * H + unit, total_ptr + row * H + unit
    factor, inner_at = factors_ptr + row * 3 * H + unit, inner_ptr + row * 3 * H + unit
    carry = tl.zeros([BLOCK_H], tl.float32)
    above, kept, r, z, n = _load_step(upstream, stay, factor, is_unit, H)
    for step in range(length):
        upstream += advance * H
        stay += advance * H
        factor += advance * 3 * H
        coming = _load_step(upstream, stay, factor, is_unit & (step + 1 < length), H)
        total = above + carry
        r, z, n = r * total, z * total, n * total
        tl.store(total_at, total, mask=is_unit)
        tl.store(inner_at, r, mask=is_unit)
        tl.store(inner_at + H, z, mask=is_unit)
        tl.store(inner_at + 2 * H, n, mask=is_unit)
        carry = kept * total + product(weight_r, in_chunks(r, COUNT, BLOCK_K), COUNT)
        carry += product(weight_z, in_chunks(z, COUNT, BLOCK_K), COUNT)
        carry += product(weight_n, in_chunks(n, COUNT, BLOCK_K), COUNT)
        total_at += advance * H
        inner_at += advance * 3 * H
        above, kept, r, z, n = coming


def backward_steps(upstream: Tensor, factors: Tensor, stay: Tensor, weight_hh: Tensor) -> tuple[Tensor, Tensor]:
    """From each direction's last step to its first: ``total = upstream + carry``, ``inner = factors * total``,
    ``carry = stay * total + inner @ weight_hh``.

    Args:
        upstream, stay: [2S, B, L, H] float32, in the order of the clips; 2S: stack and, in it, direction.
        factors: [2S, B, L, 3, H] float32, likewise; with ``stay`` zero where there is no clip.
        weight_hh: [2S, 3H, H] float32, H at most ``kernel.LARGEST_HIDDEN``.

    Returns:
        inner [2S, B, L, 3, H], total [2S, B, L, H].
    """
    ways, batch, length, hidden = upstream.shape
    inner, total = upstream.new_empty(factors.shape), upstream.new_empty(upstream.shape)
    if total.numel():
        weight = weight_hh.unflatten(1, (3, hidden)).transpose(2, 3)
        inputs = [tensor.contiguous() for tensor in (upstream, factors, stay, weight)]
        config = config_for("bigru", f"backward_{padded(hidden)}", torch.float32, total.device)
        sizes = {"H": hidden, "BLOCK_H": padded(hidden)}
        gru_backward[batch, ways](*inputs, batch, length, inner, total, **sizes, **config.launch_options())
    return inner, total
