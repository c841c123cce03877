"""Slot attention in 16 bits, on the tensor cores; in Gluon, Triton's language with explicit layouts.

The slots of one modality of one sample are the rows of a tile [ROWS, D], and every product has that tile on its left:
its sums take a few cycles, so what counts is how often threads wait for each other. The tile goes to the other threads
through shared memory, one barrier each time; a LayerNorm is taken after the product that it precedes, and adds no wait.
Weights go from memory straight into the registers that multiply them, most asked for before the wait for the tile.
Clips are normalised once where all of them fit.
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from img_deploy.kernels.bigru.tile import tanh
from img_deploy.kernels.matvec import LOG2_E
from img_deploy.kernels.tiles import MASKED

EPS = tl.constexpr(1e-5)
"""Of the three LayerNorms."""


@gluon.jit
def _sigmoid(x):
    return tanh(x * 0.5) * 0.5 + 0.5


@gluon.jit
def _vector(base_ptr, column, D: tl.constexpr):
    """[1, BLOCK_D] float32, 0 from D on."""
    return gl.load(base_ptr + column, mask=column < D, other=0.0).to(gl.float32)[None, :]


@gluon.jit
def _normalised(tile, column, D: tl.constexpr):
    """LayerNorm of each row without scale and shift, float32; 0 from column D on."""
    mean = gl.sum(tile, axis=1) / D
    centred = gl.where((column < D)[None, :], tile - mean[:, None], 0.0)
    return centred * gl.rsqrt(gl.sum(centred * centred, axis=1) / D + EPS)[:, None]


@gluon.jit
def _of_warps(tile, WARPS: tl.constexpr):
    """Of each row of a tile, the sums over the columns that a warp has: [ROWS, WARPS]. No thread waits for another."""
    return gl.sum(gl.sum(gl.reshape(tile, [tile.shape[0], tile.shape[1] // (8 * WARPS), WARPS, 8]), axis=3), axis=1)


@gluon.jit
def _moments(tile, sums, squares, D: tl.constexpr, WARPS: tl.constexpr):
    """Mean of each row, and what LayerNorm multiplies it with: [ROWS, 1] each. From column D on it holds zeros."""
    sums.store(_of_warps(tile, WARPS))
    squares.store(_of_warps(tile * tile, WARPS))
    mean = gl.sum(sums.load(tile.type.layout), axis=1) / D
    variance = gl.maximum(gl.sum(squares.load(tile.type.layout), axis=1) / D - mean * mean, 0.0)
    return mean[:, None], gl.rsqrt(variance + EPS)[:, None]


@gluon.jit
def _weight(matrix_ptr, D: tl.constexpr, BLOCK_D: tl.constexpr, RIGHT: tl.constexpr, PART: tl.constexpr):
    """The transpose of a [D, D] matrix in registers, ``PART`` of the inputs after the other."""
    outputs, parts = gl.arange(0, BLOCK_D, gl.SliceLayout(0, RIGHT)), ()
    for part in gl.static_range(BLOCK_D // PART):
        inputs = part * PART + gl.arange(0, PART, gl.SliceLayout(1, RIGHT))
        inside = (inputs < D)[:, None] & (outputs < D)[None, :]
        weight = gl.load(matrix_ptr + outputs[None, :] * D + inputs[:, None], mask=inside, other=0.0)
        parts = parts + (weight,)  # noqa: RUF005
    return parts


@gluon.jit
def _sums(parts, TILE: tl.constexpr):
    """Of the inputs of a ``_weight``, for each of its outputs: [1, BLOCK_D] float32."""
    total = gl.sum(parts[0].to(gl.float32), axis=0)
    for part in gl.static_range(1, len(parts)):
        total += gl.sum(parts[part].to(gl.float32), axis=0)
    return gl.convert_layout(total, gl.SliceLayout(0, TILE))[None, :]


@gluon.jit
def _times(shared, parts, none, LEFT: tl.constexpr, PART: tl.constexpr):
    """The tile in ``shared`` memory times a ``_weight``: a sum per part, which do not wait for each other."""
    acc = none
    for part in gl.static_range(len(parts)):
        left = shared.slice(part * PART, PART, dim=1).load(LEFT)
        acc += mma_v2(left, parts[part], none)
    return acc


@gluon.jit
def _gates(
    shared,
    matrix_ptr,
    bias_ptr,
    column,
    r,
    z,
    n,
    D: tl.constexpr,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    PART: tl.constexpr,
):
    """r, z, n plus the tile in ``shared`` memory times the transposes of three [D, D] matrices, plus their biases.

    Part by part: three sums that do not wait for each other.
    """
    outputs = gl.arange(0, r.shape[1], gl.SliceLayout(0, RIGHT))
    for part in gl.static_range(r.shape[1] // PART):
        inputs = part * PART + gl.arange(0, PART, gl.SliceLayout(1, RIGHT))
        inside = (inputs < D)[:, None] & (outputs < D)[None, :]
        at = matrix_ptr + outputs[None, :] * D + inputs[:, None]
        of_r = gl.load(at, mask=inside, other=0.0)
        of_z = gl.load(at + D * D, mask=inside, other=0.0)
        of_n = gl.load(at + 2 * D * D, mask=inside, other=0.0)
        left = shared.slice(part * PART, PART, dim=1).load(LEFT)
        r = mma_v2(left, of_r, r)
        z = mma_v2(left, of_z, z)
        n = mma_v2(left, of_n, n)
    r += _vector(bias_ptr, column, D)
    z += _vector(bias_ptr + D, column, D)
    return r, z, n + _vector(bias_ptr + 2 * D, column, D)


@gluon.jit
def _normalise_clips(x_ptr, first, length, clips, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_L: tl.constexpr):
    """Write ``BLOCK_L`` normalised clips to shared memory, zeros past the last."""
    LANES: tl.constexpr = min(32, BLOCK_D // 8)  # threads of a row
    ROWS: tl.constexpr = gl.BlockedLayout([1, 8], [32 // LANES, LANES], [gl.num_warps(), 1], [1, 0])
    SOME: tl.constexpr = min(32, BLOCK_L)  # at a time: a LayerNorm holds them in registers
    column = gl.arange(0, BLOCK_D, gl.SliceLayout(0, ROWS))
    for part in gl.static_range(BLOCK_L // SOME):
        clip = first + part * SOME + gl.arange(0, SOME, gl.SliceLayout(1, ROWS))
        inside = (clip < length)[:, None] & (column < D)[None, :]
        x = gl.load(x_ptr + clip[:, None] * D + column[None, :], mask=inside, other=0.0).to(gl.float32)
        clips.slice(part * SOME, SOME).store(_normalised(x, column, D).to(clips.dtype))


@gluon.jit(do_not_specialize=["batch", "length", "count"])
def slot_attention_rows(
    visual_ptr,  # [B, L, D]
    audio_ptr,  # [B, L, D]
    mask_ptr,  # [B, L] bool
    slots_ptr,  # [2, B, K, D]
    query_weight_ptr,  # [2, D, D]
    query_bias_ptr,  # [2, D]
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
    ROWS: tl.constexpr,  # slots per program: 16, the rows of a product
    BLOCK_L: tl.constexpr,  # clips at a time; where there are no more, they are normalised once
):
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    TILE: tl.constexpr = gl.NVMMADistributedLayout([2, 0], [1, gl.num_warps()], [16, 8])
    # A thread takes 16 bytes of a row of a weight at once: any order of the sum will do that both factors have.
    WIDE: tl.constexpr = min(8, BLOCK_D // 4)
    LEFT: tl.constexpr = gl.DotOperandLayout(0, TILE, WIDE)
    RIGHT: tl.constexpr = gl.DotOperandLayout(1, TILE, WIDE)
    NEAR: tl.constexpr = gl.DotOperandLayout(0, TILE, 2)
    FAR: tl.constexpr = gl.DotOperandLayout(1, TILE, 2)
    PART: tl.constexpr = min(64, BLOCK_D)  # of the channels that a product sums over, as many at a time
    GATE: tl.constexpr = min(32, BLOCK_D)
    SHARED: tl.constexpr = gl.SwizzledSharedLayout(8, 1, min(8, BLOCK_D // 8), [1, 0])
    OF_CLIPS: tl.constexpr = gl.SwizzledSharedLayout(8, 1, min(8, BLOCK_L // 8), [1, 0])
    WARPS: tl.constexpr = min(gl.num_warps(), BLOCK_D // 8)  # with columns of a tile of their own
    OF_WARPS: tl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    sample, modality = gl.program_id(0), gl.program_id(1)
    column = gl.arange(0, BLOCK_D, gl.SliceLayout(0, TILE))
    slot = gl.program_id(2) * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, TILE))
    own = ((modality * batch + sample) * count + slot).to(gl.int64)
    inside = (slot < count)[:, None] & (column < D)[None, :]
    x_ptr = visual_ptr if modality == 0 else audio_ptr
    x_ptr += sample.to(gl.int64) * length * D
    mask_ptr += sample.to(gl.int64) * length
    # The same in every turn: these stay in registers.
    of_query = _weight(query_weight_ptr + modality * D * D, D, BLOCK_D, RIGHT, PART)
    query_bias = _vector(query_bias_ptr + modality * D, column, D)
    query_sums = _sums(of_query, TILE)
    hidden_sums = _sums(_weight(mlp_weight_ptr + modality * 2 * D * D, D, BLOCK_D, RIGHT, PART), TILE)

    clips = gl.allocate_shared_memory(dtype, [BLOCK_L, BLOCK_D], SHARED)
    even = gl.allocate_shared_memory(dtype, [ROWS, BLOCK_D], SHARED)
    odd = gl.allocate_shared_memory(dtype, [ROWS, BLOCK_D], SHARED)
    sums = gl.allocate_shared_memory(gl.float32, [ROWS, WARPS], OF_WARPS)
    squares = gl.allocate_shared_memory(gl.float32, [ROWS, WARPS], OF_WARPS)
    if length <= BLOCK_L:
        _normalise_clips(x_ptr, 0, length, clips, D, BLOCK_D, BLOCK_L)
    none = gl.zeros([ROWS, BLOCK_D], gl.float32, TILE)
    state = gl.load(slots_ptr + own[:, None] * D + column[None, :], mask=inside, other=0.0).to(gl.float32)
    turn = 0
    while turn < ITERATIONS:
        # The same in every turn, which the compiler cannot see: it would hold all addresses in registers, and spill.
        which = gl.where(length + turn >= 0, modality, 0)
        three, two = which * 3 * D, which * 2 * D
        ih, ih_bias = gru_weight_ih_ptr + three * D, gru_bias_ih_ptr + three
        hh, hh_bias = gru_weight_hh_ptr + three * D, gru_bias_hh_ptr + three
        mlp, mlp_bias = mlp_weight_ptr + two * D, mlp_bias_ptr + two

        # A LayerNorm is what the product of the slots as they are leaves to do: (slots W - mean sums(W)) scale.
        even.store(state.to(dtype))
        mean, scale = _moments(state, sums, squares, D, WARPS)
        query = (_times(even, of_query, none, LEFT, PART) - mean * query_sums) * scale + query_bias
        odd.store((query * LOG2_E).to(dtype))  # scores in powers of two
        r, z, n_h = _gates(even, hh, hh_bias, column, none, none, none, D, LEFT, RIGHT, GATE)

        top = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, TILE))
        total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, TILE))
        mean = none
        for first in range(0, length, BLOCK_L):
            if length > BLOCK_L:
                _normalise_clips(x_ptr, first, length, clips, D, BLOCK_D, BLOCK_L)
            clip = first + gl.arange(0, BLOCK_L, gl.SliceLayout(0, TILE))
            real = gl.load(mask_ptr + clip, mask=clip < length, other=0) != 0
            score = gl.zeros([ROWS, BLOCK_L], gl.float32, TILE)
            for part in gl.static_range(BLOCK_D // PART):
                right = clips.slice(part * PART, PART, dim=1).permute([1, 0]).load(FAR)
                score = mma_v2(odd.slice(part * PART, PART, dim=1).load(NEAR), right, score)
            score = gl.where((clip < length)[None, :], gl.where(real[None, :], score, MASKED), float("-inf"))
            new_top = gl.maximum(top, gl.max(score, axis=1))
            kept = gl.exp2(top - new_top)
            share = gl.exp2(score - new_top[:, None]).to(dtype)
            share = gl.allocate_shared_memory(dtype, [ROWS, BLOCK_L], OF_CLIPS, share).load(NEAR)
            added = gl.convert_layout(gl.sum(share.to(gl.float32), axis=1), gl.SliceLayout(1, TILE))
            total = total * kept + added
            mean = mma_v2(share, clips.load(FAR), mean * kept[:, None])
            top = new_top
        even.store((mean / total[:, None]).to(dtype))
        r, z, n_x = _gates(even, ih, ih_bias, column, r, z, none, D, LEFT, RIGHT, GATE)
        candidate = tanh(n_x + _sigmoid(r) * n_h)
        state = candidate + _sigmoid(z) * (state - candidate)

        weight = _weight(mlp, D, BLOCK_D, RIGHT, PART)
        odd.store(state.to(dtype))
        mean, scale = _moments(state, sums, squares, D, WARPS)
        hidden = (_times(odd, weight, none, LEFT, PART) - mean * hidden_sums) * scale + _vector(mlp_bias, column, D)
        weight = _weight(mlp + D * D, D, BLOCK_D, RIGHT, PART)
        even.store(gl.maximum(hidden, 0.0).to(dtype))
        state += _times(even, weight, none, LEFT, PART) + _vector(mlp_bias + D, column, D)
        turn += 1
    gl.store(out_ptr + own[:, None] * D + column[None, :], state.to(dtype), mask=inside)
