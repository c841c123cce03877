"""The loop over time of the bidirectional GRU as two Triton kernels.

A program is one direction of one stack: over one sample (``gru_one_row``, plain fp32 products, any storage) or over a
tile of samples (``gru_batch_tile``, tensor cores, fp16 and bf16). Its recurrent weights stay in registers for all
steps and its state stays fp32; the input's part of the gates is read one step ahead.
"""

import triton
import triton.language as tl

from img_deploy.kernels.matvec import in_chunks, load_weight, next_state, product


@triton.jit
def gru_one_row(
    gates_ptr,  # [S, B, L, 2, 3H] input's part of the gates r, z, n
    lengths_ptr,  # [B] int32
    weight_ptr,  # [S, 2, 3H, H]
    bias_ptr,  # [S, 2, 3H]
    batch,
    length,
    out_ptr,  # [S, B, L, 2H]
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,  # power of two >= H
    BLOCK_K: tl.constexpr,  # columns of weight per piece: 16 bytes for each thread that shares a row
):
    sample, way = tl.program_id(0), tl.program_id(1)  # way: 2 * stack + direction
    stack, direction = way // 2, way % 2
    COUNT: tl.constexpr = BLOCK_H // BLOCK_K
    SHARERS: tl.constexpr = BLOCK_K * gates_ptr.dtype.element_ty.primitive_bitwidth // 128  # threads per row
    unit = tl.arange(0, BLOCK_H)
    is_unit = unit < H
    matrix = weight_ptr + way * 3 * H * H
    weight_r = load_weight(matrix, 0, unit, H, COUNT, BLOCK_K)
    weight_z = load_weight(matrix, H, unit, H, COUNT, BLOCK_K)
    weight_n = load_weight(matrix, 2 * H, unit, H, COUNT, BLOCK_K)
    bias_r = tl.load(bias_ptr + way * 3 * H + unit, mask=is_unit, other=0.0).to(tl.float32)
    bias_z = tl.load(bias_ptr + way * 3 * H + H + unit, mask=is_unit, other=0.0).to(tl.float32)
    bias_n = tl.load(bias_ptr + way * 3 * H + 2 * H + unit, mask=is_unit, other=0.0).to(tl.float32)

    own = tl.maximum(tl.minimum(tl.load(lengths_ptr + sample), length), 0)
    advance = 1 - 2 * direction
    row = (stack * batch + sample).to(tl.int64) * length
    begin = row + tl.where(direction == 0, 0, own - 1)
    gate = gates_ptr + (begin * 2 + direction) * 3 * H + unit
    # The threads that share a row of weights all hold its state, and one of them stores it. A stride that the
    # compiler cannot see through keeps it from preferring other threads, which would cost an exchange per step.
    one = tl.where(own >= 0, 1, 2)
    sharer = tl.arange(0, SHARERS)[:, None]
    target = out_ptr + (begin * 2 + direction) * H + (unit * one)[None, :] + 0 * sharer
    stores = is_unit[None, :] & (sharer == 0)

    state = tl.zeros([BLOCK_H], tl.float32)
    first = is_unit & (own > 0)
    r_x = tl.load(gate, mask=first, other=0.0)
    z_x = tl.load(gate + H, mask=first, other=0.0)
    n_x = tl.load(gate + 2 * H, mask=first, other=0.0)
    for step in range(own):
        gate += advance * 6 * H
        more = is_unit & (step + 1 < own)
        next_r = tl.load(gate, mask=more, other=0.0)
        next_z = tl.load(gate + H, mask=more, other=0.0)
        next_n = tl.load(gate + 2 * H, mask=more, other=0.0)
        pieces = in_chunks(state, COUNT, BLOCK_K)
        r_sum = r_x.to(tl.float32) + bias_r + product(weight_r, pieces, COUNT)
        z_sum = z_x.to(tl.float32) + bias_z + product(weight_z, pieces, COUNT)
        n_h = bias_n + product(weight_n, pieces, COUNT)
        state = next_state(state, r_sum, z_sum, n_x.to(tl.float32), n_h)
        stored = tl.broadcast_to(state[None, :], [SHARERS, BLOCK_H]).to(out_ptr.dtype.element_ty)
        tl.store(target, stored, mask=stores)
        target += advance * 2 * H
        r_x, z_x, n_x = next_r, next_z, next_n

    rest = out_ptr + (row * 2 + direction) * H + unit
    for step in range(own, length):
        tl.store(rest + step * 2 * H, tl.zeros([BLOCK_H], out_ptr.dtype.element_ty), mask=is_unit)


@triton.jit
def gru_batch_tile(
    gates_ptr,  # [S, B, L, 2, 3H] input's part of the gates r, z, n
    lengths_ptr,  # [B] int32
    weight_ptr,  # [S, 2, 3H, H]
    bias_ptr,  # [S, 2, 3H]
    batch,
    length,
    out_ptr,  # [S, B, L, 2H]
    H: tl.constexpr,
    BLOCK_H: tl.constexpr,  # power of two >= H
    BLOCK_B: tl.constexpr,  # samples per program: columns of the state, 8 is the narrowest tensor-core tile
):
    dtype = out_ptr.dtype.element_ty
    way = tl.program_id(1)  # 2 * stack + direction
    stack, direction = way // 2, way % 2
    sample = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    unit = tl.arange(0, BLOCK_H)
    column = tl.arange(0, BLOCK_H)
    is_unit = (unit < H)[:, None]
    matrix = weight_ptr + way * 3 * H * H + unit[:, None] * H + column[None, :]
    inside = is_unit & (column < H)[None, :]
    weight_r = tl.load(matrix, mask=inside, other=0.0)
    weight_z = tl.load(matrix + H * H, mask=inside, other=0.0)
    weight_n = tl.load(matrix + 2 * H * H, mask=inside, other=0.0)
    biases = bias_ptr + way * 3 * H + unit
    bias_r = tl.load(biases, mask=unit < H, other=0.0).to(tl.float32)[:, None]
    bias_z = tl.load(biases + H, mask=unit < H, other=0.0).to(tl.float32)[:, None]
    bias_n = tl.load(biases + 2 * H, mask=unit < H, other=0.0).to(tl.float32)[:, None]

    own = tl.maximum(tl.minimum(tl.load(lengths_ptr + sample, mask=sample < batch, other=0), length), 0)
    steps = tl.max(own, axis=0)
    advance = 1 - 2 * direction
    row = (stack * batch + sample).to(tl.int64) * length
    begin = row + tl.where(direction == 0, 0, own - 1)
    gate = ((begin * 2 + direction) * (3 * H))[None, :] + unit[:, None]
    target = ((begin * 2 + direction) * H)[None, :] + unit[:, None]

    state = tl.zeros([BLOCK_H, BLOCK_B], tl.float32)
    live = is_unit & (own > 0)[None, :]
    r_x = tl.load(gates_ptr + gate, mask=live, other=0.0)
    z_x = tl.load(gates_ptr + gate + H, mask=live, other=0.0)
    n_x = tl.load(gates_ptr + gate + 2 * H, mask=live, other=0.0)
    # In a ``for`` loop the compiler would move the weights back to shared memory and read them at every step.
    step = 0
    while step < steps:
        ahead = gates_ptr + (step + 1) * advance * 6 * H
        more = is_unit & (step + 1 < own)[None, :]
        next_r = tl.load(ahead + gate, mask=more, other=0.0)
        next_z = tl.load(ahead + gate + H, mask=more, other=0.0)
        next_n = tl.load(ahead + gate + 2 * H, mask=more, other=0.0)
        rounded = state.to(dtype)
        r_sum = tl.dot(weight_r, rounded, r_x.to(tl.float32) + bias_r)
        z_sum = tl.dot(weight_z, rounded, z_x.to(tl.float32) + bias_z)
        n_h = bias_n + tl.dot(weight_n, rounded)
        state = next_state(state, r_sum, z_sum, n_x.to(tl.float32), n_h)
        here = is_unit & (step < own)[None, :]
        tl.store(out_ptr + step * advance * 2 * H + target, state.to(dtype), mask=here)
        r_x, z_x, n_x = next_r, next_z, next_n
        step += 1

    zeros = tl.zeros([BLOCK_H, BLOCK_B], dtype)
    rest = out_ptr + ((row * 2 + direction) * H)[None, :] + unit[:, None]
    for past in range(tl.min(own, axis=0), length):
        tl.store(rest + past * 2 * H, zeros, mask=is_unit & ((sample < batch) & (past >= own))[None, :])
