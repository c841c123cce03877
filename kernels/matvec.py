"""Device functions for matrices times vectors in registers, and the GRU cell; shared by the recurrent kernels.

A matrix is held in pieces along its columns: in each piece a few threads share a row, 16 bytes each, so that a product
adds pieces first (no exchange between threads) and only then the threads of a row. A vector is cut into pieces alike.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def sigmoid(x):
    # 1 / (1 + e) as a squared reciprocal root: two instructions without the range checks of a division.
    root = tl.rsqrt(1 + tl.exp2(-LOG2_E * x))
    return root * root


@triton.jit
def next_state(state, r_x, z_x, n_x, n_h):
    """GRU cell in fp32; ``r_x`` and ``z_x`` hold the sums of input and recurrent part, ``n_x`` and ``n_h`` each one."""
    candidate = 2 * sigmoid(2 * (n_x + sigmoid(r_x) * n_h)) - 1  # tanh
    return candidate + sigmoid(z_x) * (state - candidate)


@triton.jit
def in_chunks(vector, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """[COUNT * SIZE] -> COUNT consecutive pieces of [SIZE]."""
    if COUNT == 1:
        return (vector,)
    else:  # noqa: RET505 (Triton compiles what follows a static return too)
        low, high = tl.split(tl.trans(tl.reshape(vector, [2, COUNT // 2 * SIZE])))
        return in_chunks(low, COUNT // 2, SIZE) + in_chunks(high, COUNT // 2, SIZE)


@triton.jit
def load_weight(weight_ptr, first, unit, H: tl.constexpr, COUNT: tl.constexpr, SIZE: tl.constexpr):
    """Rows ``first + unit`` of a [*, H] matrix, as COUNT pieces of SIZE columns; 0 outside the matrix."""
    pieces = ()
    for c in tl.static_range(COUNT):
        column = c * SIZE + tl.arange(0, SIZE)
        inside = (unit < H)[:, None] & (column < H)[None, :]
        piece = tl.load(weight_ptr + (first + unit[:, None]) * H + column[None, :], mask=inside, other=0.0)
        pieces = pieces + (piece,)  # noqa: RUF005 (Triton knows no starred items)
    return pieces


@triton.jit
def product(weight, vector, COUNT: tl.constexpr):
    """[units, H] of any storage times [H] fp32, both in pieces along H: [units] fp32."""
    total = weight[0].to(tl.float32) * vector[0][None, :]
    for c in tl.static_range(1, COUNT):
        piece = weight[c].to(tl.float32)
        total = tl.fma(piece, tl.broadcast_to(vector[c][None, :], piece.shape), total)
    return tl.sum(total, axis=1)
