"""The loop over time of a GRU layer in 16 bits, on the tensor cores; in Gluon, Triton's language with explicit layouts.

A step is as long as what waits in it, so the layouts are chosen for that: of a unit, r, z, n and the state lie in one
thread, and so do its weights, as fragments of matrix products, for all steps. Threads meet once per step, where the
state (rounded to 16 bits, the rest of it stays float32) becomes the other factor of the products through shared memory.
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2


@gluon.jit
def tanh(x):
    """One instruction, off by 2^-11 of the result: less than the rounding of a state to 16 bits."""
    return gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def _half(x):
    """r, z and the state's part of n are halves from the weights on: sigmoid(r) = tanh(r / 2) / 2 + 1 / 2, and
    sigmoid(r) * n = tanh(r / 2) * n / 2 + n / 2."""
    return (x.to(gl.float32) * 0.5).to(x.dtype)


@gluon.jit
def _samples(tile, BLOCK_B: tl.constexpr):
    """The columns of a product [BLOCK_H, 8] that hold samples: all 8, or every second one; no thread gives any away.

    Rows become units: of 16, a thread has two rows that lie 8 apart, and they are neighbours as units, so that it reads
    and writes both at once.
    """
    rows = gl.permute(gl.reshape(tile, [tile.shape[0] // 16, 2, 8, 8]), [0, 2, 1, 3])
    units = gl.reshape(rows, [tile.shape[0], 8])
    if BLOCK_B == 8:
        return units
    else:  # noqa: RET505 (Triton compiles what follows a static return too)
        even, _ = gl.split(gl.reshape(units, [tile.shape[0], 4, 2]))
        return even


@gluon.jit
def _columns(tile, BLOCK_B: tl.constexpr):
    """The inverse: [BLOCK_H, 8], with 4 samples each of them twice."""
    if BLOCK_B == 8:
        return tile
    else:  # noqa: RET505
        return gl.reshape(gl.join(tile, tile), [tile.shape[0], 8])


@gluon.jit
def _load_gates(at, unit, live, H: tl.constexpr):
    """The input's part of r, z, n of one step, in the storage dtype: each [BLOCK_H, BLOCK_B]."""
    here = at[None, :] + unit[:, None]
    live = (unit < H)[:, None] & live[None, :]
    r = gl.load(here, mask=live, other=0.0)
    return r, gl.load(here + H, mask=live, other=0.0), gl.load(here + 2 * H, mask=live, other=0.0)


@gluon.jit(do_not_specialize=["batch", "length"])
def gru_batch_tile(
    gates_ptr,  # [S, B, L, 2, 3H] input's part of the gates r, z, n, without its bias
    lengths_ptr,  # [B] int32
    weight_hh_ptr,  # [S, 2, 3H, H]
    bias_ih_ptr,  # [S, 2, 3H]
    bias_hh_ptr,  # [S, 2, 3H]
    batch,
    length,
    out_ptr,  # [B, L, S, 2H]
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,  # power of two >= H, 16 for each warp
    BLOCK_B: tl.constexpr,  # samples per program: 4, or 8 as a product has columns
    AHEAD: tl.constexpr,  # steps for which the input's gates are in registers, the present one among them; even
):
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    PRODUCT: tl.constexpr = gl.NVMMADistributedLayout([2, 0], [gl.num_warps(), 1], [16, 8])
    WEIGHT: tl.constexpr = gl.DotOperandLayout(0, PRODUCT, 2)
    STATE: tl.constexpr = gl.DotOperandLayout(1, PRODUCT, 2)
    SHARED: tl.constexpr = gl.SwizzledSharedLayout(8, 1, min(8, BLOCK_H // 8), [0, 1])
    PART: tl.constexpr = max(16, BLOCK_H // 2)  # the sum over the state in two halves, which do not wait for each other
    PARTS: tl.constexpr = BLOCK_H // PART
    none = gl.zeros([BLOCK_H, 8], gl.float32, PRODUCT)
    state = _samples(none, BLOCK_B)  # [BLOCK_H, BLOCK_B]: r, z and n of a unit lie in the thread that has its state
    TILE: tl.constexpr = state.type.layout
    unit = gl.arange(0, BLOCK_H, gl.SliceLayout(1, TILE))
    sample = gl.program_id(0) * BLOCK_B + gl.arange(0, BLOCK_B, gl.SliceLayout(0, TILE))
    is_unit = unit < H

    way = gl.program_id(1)  # 2 * stack + direction
    stack, direction = way // 2, way % 2
    row = gl.arange(0, BLOCK_H, gl.SliceLayout(1, WEIGHT))
    row = row // 16 * 16 + row % 8 * 2 + row % 16 // 8  # its unit, see ``_samples``
    weight_r, weight_z, weight_n = (), (), ()
    for k in gl.static_range(PARTS):
        column = k * PART + gl.arange(0, PART, gl.SliceLayout(0, WEIGHT))
        matrix = weight_hh_ptr + way * 3 * H * H + row[:, None] * H + column[None, :]
        inside = (row < H)[:, None] & (column < H)[None, :]
        weight_r = weight_r + (_half(gl.load(matrix, mask=inside, other=0.0)),)  # noqa: RUF005 (no starred items)
        weight_z = weight_z + (_half(gl.load(matrix + H * H, mask=inside, other=0.0)),)  # noqa: RUF005
        weight_n = weight_n + (_half(gl.load(matrix + 2 * H * H, mask=inside, other=0.0)),)  # noqa: RUF005
    bias = way * 3 * H + unit
    bias_r = gl.load(bias_hh_ptr + bias, mask=is_unit, other=0.0).to(gl.float32)
    bias_r = _half(bias_r + gl.load(bias_ih_ptr + bias, mask=is_unit, other=0.0).to(gl.float32))[:, None]
    bias_z = gl.load(bias_hh_ptr + bias + H, mask=is_unit, other=0.0).to(gl.float32)
    bias_z = _half(bias_z + gl.load(bias_ih_ptr + bias + H, mask=is_unit, other=0.0).to(gl.float32))[:, None]
    input_bias_n = gl.load(bias_ih_ptr + bias + 2 * H, mask=is_unit, other=0.0).to(gl.float32)[:, None]
    bias_n = _half(gl.load(bias_hh_ptr + bias + 2 * H, mask=is_unit, other=0.0).to(gl.float32))[:, None]

    own = gl.maximum(gl.minimum(gl.load(lengths_ptr + sample, mask=sample < batch, other=0), length), 0)
    steps = gl.max(own, axis=0)
    advance = 1 - 2 * direction
    begin = gl.where(direction == 0, 0, own - 1)
    gate = gates_ptr + (((stack * batch + sample).to(gl.int64) * length + begin) * 2 + direction) * (3 * H)
    stride = gl.num_programs(1) * H
    first_out = out_ptr + sample.to(gl.int64) * length * stride + way * H
    target = first_out + (begin - advance) * stride

    gates = ()
    for j in gl.static_range(AHEAD - 1):
        gates = gates + (_load_gates(gate + j * advance * 6 * H, unit, j < own, H),)  # noqa: RUF005
    # Two buffers take the state in turn: each step then needs one barrier, between writing and reading its own.
    even = gl.allocate_shared_memory(dtype, [BLOCK_H, 8], SHARED)
    odd = gl.allocate_shared_memory(dtype, [BLOCK_H, 8], SHARED)
    step = 0
    while step < steps:
        for j in gl.static_range(AHEAD):
            rounded = state.to(dtype)
            buffer = even if j % 2 == 0 else odd
            buffer.store(_columns(rounded, BLOCK_B))
            halves = ()
            for k in gl.static_range(PARTS):
                halves = halves + (buffer.slice(k * PART, PART, dim=0).load(STATE),)  # noqa: RUF005
            # After the barrier, in the shadow of the products: the last step's output and the gates of a later one.
            past = step + j - 1
            here = is_unit[:, None] & ((past >= 0) & (past < own))[None, :]
            gl.store(target[None, :] + unit[:, None], rounded, mask=here)
            target += advance * stride
            later = step + (j + AHEAD - 1)
            gates = gates + (_load_gates(gate + later * advance * 6 * H, unit, later < own, H),)  # noqa: RUF005
            r_x, z_x, n_x = gates[j]
            r, z, n = _half(r_x.to(gl.float32)) + bias_r, _half(z_x.to(gl.float32)) + bias_z, bias_n
            for k in gl.static_range(PARTS):
                r += _samples(mma_v2(weight_r[k], halves[k], none), BLOCK_B)
                n += _samples(mma_v2(weight_n[k], halves[k], none), BLOCK_B)
                z += _samples(mma_v2(weight_z[k], halves[k], none), BLOCK_B)
            candidate = tanh((n_x.to(gl.float32) + input_bias_n + n) + tanh(r) * n)
            state = candidate + (_half(tanh(z)) + 0.5) * (state - candidate)
        gates = gates[AHEAD:]
        step += AHEAD
    last = is_unit[:, None] & ((own > 0) & (step <= own))[None, :]
    gl.store(target[None, :] + unit[:, None], state.to(dtype), mask=last)

    rest = first_out[None, :] + unit[:, None]
    zeros = gl.zeros([BLOCK_H, BLOCK_B], dtype, TILE)
    for past in range(gl.min(own, axis=0), length):
        gl.store(rest + past * stride, zeros, mask=is_unit[:, None] & ((sample < batch) & (past >= own))[None, :])
