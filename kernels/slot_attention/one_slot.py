"""Slot attention of one slot of one modality of one sample: vectors and matrices in registers, fp32 products.

The softmax runs over clips, so slots do not meet: each is a program of its own. See ``kernel.py`` for why no keys and
values are formed.
"""

import triton
import triton.language as tl

from img_deploy.kernels.matvec import LOG2_E, in_chunks, load_weight, next_state, product

EPS = tl.constexpr(1e-5)
MASKED = tl.constexpr(-1e30)


@triton.jit
def load_vector(vector_ptr, column, D: tl.constexpr):
    return tl.load(vector_ptr + column, mask=column < D, other=0.0).to(tl.float32)


@triton.jit
def layer_norm(vector, weight_ptr, bias_ptr, column, D: tl.constexpr):
    """LayerNorm of an fp32 vector [BLOCK_D]; 0 from D on."""
    mean = tl.sum(vector, axis=0) / D
    centred = tl.where(column < D, vector - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / D + EPS)
    return centred * scale * load_vector(weight_ptr, column, D) + load_vector(bias_ptr, column, D)


@triton.jit
def linear(vector, weight_ptr, bias_ptr, column, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """A [D, D] weight times the vector, plus a bias."""
    COUNT: tl.constexpr = vector.shape[0] // BLOCK_K
    weight = load_weight(weight_ptr, 0, column, D, COUNT, BLOCK_K)
    return product(weight, in_chunks(vector, COUNT, BLOCK_K), COUNT) + load_vector(bias_ptr, column, D)


@triton.jit
def attend(
    query, x_ptr, mask_ptr, norm_weight_ptr, norm_bias_ptr, length, column, D: tl.constexpr, BLOCK_L: tl.constexpr
):
    """Mean of the normalised clips x [length, D], weighted by softmax(query · clip / sqrt(D)) over the real ones."""
    is_column = column < D
    weight, bias = load_vector(norm_weight_ptr, column, D), load_vector(norm_bias_ptr, column, D)
    top, total = float("-inf"), 0.0
    mean = tl.zeros([BLOCK_L, query.shape[0]], tl.float32)
    for first in range(0, length, BLOCK_L):
        clip = first + tl.arange(0, BLOCK_L)
        is_clip = clip < length
        x = tl.load(x_ptr + clip[:, None] * D + column[None, :], mask=is_clip[:, None] & is_column[None, :], other=0.0)
        x = x.to(tl.float32)
        centred = tl.where(is_column[None, :], x - (tl.sum(x, axis=1) / D)[:, None], 0.0)
        scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / D + EPS)
        x = centred * scale[:, None] * weight[None, :] + bias[None, :]
        real = tl.load(mask_ptr + clip, mask=is_clip, other=0) != 0
        score = tl.sum(x * query[None, :], axis=1) * (LOG2_E * D**-0.5)  # in powers of two
        score = tl.where(is_clip, tl.where(real, score, MASKED), float("-inf"))
        new_top = tl.maximum(top, tl.max(score, axis=0))
        share, kept = tl.exp2(score - new_top), tl.exp2(top - new_top)
        total = total * kept + tl.sum(share, axis=0)
        mean = mean * kept + share[:, None] * x
        top = new_top
    return tl.sum(mean, axis=0) / total


@triton.jit
def slot_attention_one_slot(
    visual_ptr,  # [B, L, D]
    audio_ptr,  # [B, L, D]
    mask_ptr,  # [B, L] bool
    slots_ptr,  # [2, B, K, D]
    norm_input_weight_ptr,  # [2, D]; so are the next five
    norm_input_bias_ptr,
    norm_slots_weight_ptr,
    norm_slots_bias_ptr,
    norm_mlp_weight_ptr,
    norm_mlp_bias_ptr,
    qkv_weight_ptr,  # [2, 3D, D]
    qkv_bias_ptr,  # [2, 3D]
    gru_weight_ih_ptr,  # [2, 3D, D]
    gru_weight_hh_ptr,  # [2, 3D, D]
    gru_bias_ih_ptr,  # [2, 3D]
    gru_bias_hh_ptr,  # [2, 3D]
    mlp_weight_ptr,  # [2, 2, D, D]
    mlp_bias_ptr,  # [2, 2, D]
    batch,
    length,
    count,  # slots, K
    out_ptr,  # [2, B, K, D]
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,  # power of two >= D
    ITERATIONS: tl.constexpr,
    BLOCK_L: tl.constexpr,  # clips at a time
    BLOCK_K: tl.constexpr,  # columns of a weight per piece
):
    sample, modality, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = tl.arange(0, BLOCK_D)
    own = ((modality * batch + sample) * count + slot).to(tl.int64) * D
    x_ptr = tl.where(modality == 0, visual_ptr, audio_ptr) + sample.to(tl.int64) * length * D
    mask_ptr += sample.to(tl.int64) * length
    norm = modality * D
    norm_x_weight, norm_x_bias = norm_input_weight_ptr + norm, norm_input_bias_ptr + norm
    norm_slots_weight, norm_slots_bias = norm_slots_weight_ptr + norm, norm_slots_bias_ptr + norm
    norm_mlp_weight, norm_mlp_bias = norm_mlp_weight_ptr + norm, norm_mlp_bias_ptr + norm
    three, two = modality * 3 * D, modality * 2 * D
    qkv, qkv_bias = qkv_weight_ptr + three * D, qkv_bias_ptr + three
    ih, ih_bias = gru_weight_ih_ptr + three * D, gru_bias_ih_ptr + three
    hh, hh_bias = gru_weight_hh_ptr + three * D, gru_bias_hh_ptr + three
    mlp, mlp_bias = mlp_weight_ptr + two * D, mlp_bias_ptr + two
    row = tl.arange(0, BLOCK_D)
    square = (row < D)[:, None] & (column < D)[None, :]

    state = load_vector(slots_ptr + own, column, D)
    turn = 0
    while turn < ITERATIONS:  # a ``for`` loop would have the compiler read all weights before it, and spill them
        normed = layer_norm(state, norm_slots_weight, norm_slots_bias, column, D)
        query = linear(normed, qkv, qkv_bias, column, D, BLOCK_K)
        keys = tl.load(qkv + D * D + row[:, None] * D + column[None, :], mask=square, other=0.0).to(tl.float32)
        query = tl.sum(keys * query[:, None], axis=0)
        mean = attend(query, x_ptr, mask_ptr, norm_x_weight, norm_x_bias, length, column, D, BLOCK_L)
        update = linear(mean, qkv + 2 * D * D, qkv_bias + 2 * D, column, D, BLOCK_K)

        r_sum, z_sum = tl.zeros_like(state), tl.zeros_like(state)
        n_x, n_h = tl.zeros_like(state), tl.zeros_like(state)
        for gate in range(3):  # r, z, n
            n_x = linear(update, ih + gate * D * D, ih_bias + gate * D, column, D, BLOCK_K)
            n_h = linear(state, hh + gate * D * D, hh_bias + gate * D, column, D, BLOCK_K)
            r_sum = tl.where(gate == 0, n_x + n_h, r_sum)
            z_sum = tl.where(gate == 1, n_x + n_h, z_sum)
        state = next_state(state, r_sum, z_sum, n_x, n_h)

        normed = layer_norm(state, norm_mlp_weight, norm_mlp_bias, column, D)
        hidden = tl.maximum(linear(normed, mlp, mlp_bias, column, D, BLOCK_K), 0.0)
        state += linear(hidden, mlp + D * D, mlp_bias + D, column, D, BLOCK_K)
        turn += 1
    tl.store(out_ptr + own + column, state.to(out_ptr.dtype.element_ty), mask=column < D)
