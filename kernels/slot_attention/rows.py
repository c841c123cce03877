"""Slot attention of all slots of one modality of one sample on tensor cores: slots are the rows of a tile.

See ``kernel.py`` for why no keys and values are formed.
"""

import triton
import triton.language as tl

from img_deploy.kernels.matvec import LOG2_E, next_state

EPS = tl.constexpr(1e-5)
MASKED = tl.constexpr(-1e30)


@triton.jit
def layer_norm(tile, weight_ptr, bias_ptr, column, D: tl.constexpr):
    """LayerNorm of the rows of an fp32 tile [*, BLOCK_D]; columns from D on are 0."""
    is_column = column < D
    mean = tl.sum(tile, axis=1) / D
    centred = tl.where(is_column[None, :], tile - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=1) / D + EPS)
    weight = tl.load(weight_ptr + column, mask=is_column, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=is_column, other=0.0).to(tl.float32)
    return centred * scale[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def load_square(matrix_ptr, index, column, D: tl.constexpr):
    """The ``index``-th [D, D] matrix of a row of them, padded to [BLOCK_D, BLOCK_D]."""
    inside = (column < D)[:, None] & (column < D)[None, :]
    return tl.load(matrix_ptr + index * D * D + column[:, None] * D + column[None, :], mask=inside, other=0.0)


@triton.jit
def load_bias(bias_ptr, index, column, D: tl.constexpr):
    return tl.load(bias_ptr + index * D + column, mask=column < D, other=0.0).to(tl.float32)[None, :]


@triton.jit
def times(tile, matrix):
    """Tile [ROWS, D] times the transpose of a weight [D out, D in]: [ROWS, D] fp32."""
    return tl.dot(tile, tl.trans(matrix))


@triton.jit
def attend(
    query, x_ptr, mask_ptr, norm_weight_ptr, norm_bias_ptr, length, column, D: tl.constexpr, BLOCK_L: tl.constexpr
):
    """Mean of the normalised clips x [length, D], weighted by softmax(query · clip) over the real ones. [ROWS, D]."""
    rows: tl.constexpr = query.shape[0]
    top = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    mean = tl.zeros(query.shape, tl.float32)
    for first in range(0, length, BLOCK_L):
        clip = first + tl.arange(0, BLOCK_L)
        inside = (clip < length)[:, None] & (column < D)[None, :]
        x = tl.load(x_ptr + clip[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
        x = layer_norm(x, norm_weight_ptr, norm_bias_ptr, column, D).to(query.dtype)
        real = tl.load(mask_ptr + clip, mask=clip < length, other=0) != 0
        score = tl.dot(query, tl.trans(x))  # [ROWS, BLOCK_L]
        score = tl.where((clip < length)[None, :], tl.where(real[None, :], score, MASKED), float("-inf"))
        new_top = tl.maximum(top, tl.max(score, axis=1))
        share = tl.exp2(score - new_top[:, None])
        kept = tl.exp2(top - new_top)
        total = total * kept + tl.sum(share, axis=1)
        mean = tl.dot(share.to(query.dtype), x, mean * kept[:, None])
        top = new_top
    return mean / total[:, None]


@triton.jit
def slot_attention_rows(
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
    ROWS: tl.constexpr,  # slots per program, at least what a tensor core takes
    BLOCK_L: tl.constexpr,  # clips at a time
):
    dtype = out_ptr.dtype.element_ty
    sample, modality = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    slot = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    own = ((modality * batch + sample) * count + slot).to(tl.int64)
    inside = (slot < count)[:, None] & (column < D)[None, :]
    x_ptr = tl.where(modality == 0, visual_ptr, audio_ptr) + sample.to(tl.int64) * length * D
    mask_ptr += sample.to(tl.int64) * length
    norms = modality * D
    qkv_ptr, qkv_bias_ptr = qkv_weight_ptr + modality * 3 * D * D, qkv_bias_ptr + modality * 3 * D
    ih_ptr, ih_bias_ptr = gru_weight_ih_ptr + modality * 3 * D * D, gru_bias_ih_ptr + modality * 3 * D
    hh_ptr, hh_bias_ptr = gru_weight_hh_ptr + modality * 3 * D * D, gru_bias_hh_ptr + modality * 3 * D
    mlp_ptr, mlp_bias_ptr = mlp_weight_ptr + modality * 2 * D * D, mlp_bias_ptr + modality * 2 * D

    state = tl.load(slots_ptr + own[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
    turn = 0
    while turn < ITERATIONS:  # a ``for`` loop would have the compiler read all weights before it, and not fit
        normed = layer_norm(state, norm_slots_weight_ptr + norms, norm_slots_bias_ptr + norms, column, D).to(dtype)
        query = times(normed, load_square(qkv_ptr, 0, column, D)) + load_bias(qkv_bias_ptr, 0, column, D)
        folded = tl.dot(query.to(dtype), load_square(qkv_ptr, 1, column, D))
        folded = (folded * (LOG2_E * D**-0.5)).to(dtype)  # scores in powers of two
        mean = attend(
            *(folded, x_ptr, mask_ptr, norm_input_weight_ptr + norms, norm_input_bias_ptr + norms),
            *(length, column, D, BLOCK_L),
        ).to(dtype)
        update = times(mean, load_square(qkv_ptr, 2, column, D)) + load_bias(qkv_bias_ptr, 2, column, D)
        update, before = update.to(dtype), state.to(dtype)

        r_sum, z_sum = tl.zeros_like(state), tl.zeros_like(state)
        n_x, n_h = tl.zeros_like(state), tl.zeros_like(state)
        for gate in range(3):  # r, z, n
            n_x = times(update, load_square(ih_ptr, gate, column, D)) + load_bias(ih_bias_ptr, gate, column, D)
            n_h = times(before, load_square(hh_ptr, gate, column, D)) + load_bias(hh_bias_ptr, gate, column, D)
            r_sum = tl.where(gate == 0, n_x + n_h, r_sum)
            z_sum = tl.where(gate == 1, n_x + n_h, z_sum)
        state = next_state(state, r_sum, z_sum, n_x, n_h)

        hidden = layer_norm(state, norm_mlp_weight_ptr + norms, norm_mlp_bias_ptr + norms, column, D).to(dtype)
        hidden = times(hidden, load_square(mlp_ptr, 0, column, D)) + load_bias(mlp_bias_ptr, 0, column, D)
        hidden = tl.maximum(hidden, 0.0).to(dtype)
        state += times(hidden, load_square(mlp_ptr, 1, column, D)) + load_bias(mlp_bias_ptr, 1, column, D)
        turn += 1
    tl.store(out_ptr + own[:, None] * D + column[None, :], state.to(dtype), mask=inside)
