"""Device functions that the kernels of the fused blocks share: tiles of rows in, tiles of rows out.

A tile is [ROWS, WIDTH]. Its columns hold the channels in ``GROUPS`` groups (the heads; 1 elsewhere), each padded to
``GROUP_PAD`` columns, so that WIDTH is the number of groups, padded to a power of two, times ``GROUP_PAD``. Columns
without a channel hold 0. Statistics, softmax and sums are float32; what enters a matrix product is rounded to the
storage dtype, as in the references, and a product of float32 values is an IEEE one, never tf32.
"""

import triton
import triton.language as tl

from img_deploy.kernels import dtypes

LAYER_NORM_EPS = tl.constexpr(1e-6)
MASKED = tl.constexpr(dtypes.MASKED)
VECTOR_CHUNK = tl.constexpr(128)


@triton.jit
def channels(columns, DIM: tl.constexpr, GROUPS: tl.constexpr, GROUP_PAD: tl.constexpr):
    """The channel in each column, and whether there is one."""
    SIZE: tl.constexpr = DIM // GROUPS
    if GROUPS == 1 or SIZE == GROUP_PAD:  # nothing is padded inside a group; plain numbers keep loads wide
        channel = columns
        real = columns < DIM
    else:
        channel = (columns // GROUP_PAD) * SIZE + columns % GROUP_PAD
        real = (columns % GROUP_PAD < SIZE) & (columns // GROUP_PAD < GROUPS)
    return channel, real


@triton.jit
def load_rows(base_ptr, rows, count, channel, real, DIM: tl.constexpr):
    """Rows ``rows`` [ROWS] of ``base`` [count, DIM], in the storage dtype; 0 where there is no such row."""
    inside = ((rows >= 0) & (rows < count))[:, None] & real[None, :]
    return tl.load(base_ptr + rows[:, None] * DIM + channel[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(base_ptr, tile, rows, first, end, channel, real, DIM: tl.constexpr):
    """Write the rows of ``tile`` whose number lies in ``first <= row < end``, rounded to the storage dtype."""
    inside = ((rows >= first) & (rows < end))[:, None] & real[None, :]
    pointers = base_ptr + rows[:, None] * DIM + channel[None, :]
    tl.store(pointers, tile.to(base_ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_vector(base_ptr, channel, real):
    """[WIDTH] float32."""
    return tl.load(base_ptr + channel, mask=real, other=0.0).to(tl.float32)


@triton.jit
def spread(vector, ROWS: tl.constexpr):
    """The same vector [WIDTH] in each of ``ROWS`` rows."""
    return tl.broadcast_to(vector[None, :], [ROWS, vector.shape[0]])


@triton.jit
def load_mask(mask_ptr, rows, count):
    """[ROWS] bool, False where there is no such row."""
    return tl.load(mask_ptr + rows, mask=(rows >= 0) & (rows < count), other=0) != 0


@triton.jit
def mask_scores(scores, keep, inside):
    """A masked position keeps a share where all are masked (-1e30, as in the references); one outside never does."""
    return tl.where(inside, tl.where(keep, scores, MASKED), float("-inf"))


@triton.jit
def layer_norm(tile, weight_ptr, bias_ptr, channel, real, DIM: tl.constexpr, EPS: tl.constexpr = LAYER_NORM_EPS):
    """LayerNorm of each row over its real columns; float32 in and out, 0 in the other columns.

    Where weights are 16 bits wide, both sums of a row are taken at once: threads wait for each other half as often.
    """
    weight, bias = load_vector(weight_ptr, channel, real), load_vector(bias_ptr, channel, real)
    if weight_ptr.dtype.element_ty == tl.float32:
        mean = tl.sum(tile, axis=1) / DIM  # [ROWS]
        centred = tl.where(real[None, :], tile - mean[:, None], 0.0)
        variance = tl.sum(centred * centred, axis=1) / DIM
    else:
        total, squares = tl.reduce((tile, tile * tile), 1, _add_both)
        mean = total / DIM
        centred = tl.where(real[None, :], tile - mean[:, None], 0.0)
        variance = tl.maximum(squares / DIM - mean * mean, 0.0)
    return centred * tl.rsqrt(variance + EPS)[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def _add_both(a, b, c, d):
    return a + c, b + d


@triton.jit
def linear(
    acc,
    tile,
    weight_ptr,
    STRIDE: tl.constexpr,
    DIM: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """``acc + tile @ weight.T``, float32 [ROWS, WIDTH]; ``tile`` in the storage dtype, ``weight`` [DIM, DIM] with its
    rows ``STRIDE`` elements apart.

    The sum goes ``CHUNK`` input columns at a time: a thread holds its share of both operands of a float32 product in
    registers, and shared memory then holds a chunk of the weights instead of all of them.
    """
    ROWS: tl.constexpr = tile.shape[0]
    WIDTH: tl.constexpr = tile.shape[1]
    outputs, output_real = channels(tl.arange(0, WIDTH), DIM, GROUPS, GROUP_PAD)
    if CHUNK >= WIDTH:
        inside = output_real[None, :] & output_real[:, None]
        weight = tl.load(weight_ptr + outputs[None, :] * STRIDE + outputs[:, None], mask=inside, other=0.0)
        acc = tl.dot(tile, weight, acc, input_precision="ieee")
    else:
        PARTS: tl.constexpr = WIDTH // CHUNK
        parts = tl.reshape(tile, [ROWS, PARTS, CHUNK])
        number = tl.arange(0, PARTS)[None, :, None]
        for i in range(PARTS):
            inputs, input_real = channels(i * CHUNK + tl.arange(0, CHUNK), DIM, GROUPS, GROUP_PAD)
            inside = output_real[None, :] & input_real[:, None]
            weight = tl.load(weight_ptr + outputs[None, :] * STRIDE + inputs[:, None], mask=inside, other=0.0)
            part = tl.sum(tl.where(number == i, parts, 0.0), axis=1)  # a slice of registers, exact: the rest is 0
            acc = tl.dot(part.to(tile.dtype), weight, acc, input_precision="ieee")
    return acc


@triton.jit
def vector_linear(vector, weight_ptr, STRIDE: tl.constexpr, DIM: tl.constexpr):
    """``weight @ vector``, float32 [WIDTH], for one float32 vector [WIDTH]; ``weight`` [DIM, DIM] as in ``linear``."""
    WIDTH: tl.constexpr = vector.shape[0]
    CHUNK: tl.constexpr = min(WIDTH, VECTOR_CHUNK)
    parts = tl.reshape(vector, [WIDTH // CHUNK, CHUNK])
    number = tl.arange(0, WIDTH // CHUNK)[:, None]
    outputs = tl.arange(0, WIDTH)
    products = tl.zeros([WIDTH, CHUNK], tl.float32)
    for i in range(WIDTH // CHUNK):
        inputs = i * CHUNK + tl.arange(0, CHUNK)
        part = tl.sum(tl.where(number == i, parts, 0.0), axis=0)  # [CHUNK]
        inside = (outputs < DIM)[:, None] & (inputs < DIM)[None, :]
        weight = tl.load(weight_ptr + outputs[:, None] * STRIDE + inputs[None, :], mask=inside, other=0.0)
        products += weight.to(tl.float32) * part[None, :]
    return tl.sum(products, axis=1)


@triton.jit
def attention_pool(base_ptr, weight_ptr, mask_ptr, count, channel, real, DIM: tl.constexpr, ROWS: tl.constexpr):
    """Mean of ``base`` [count, DIM] weighted by softmax(base · weight) over ``mask`` [count]; float32 [WIDTH]."""
    weight = load_vector(weight_ptr, channel, real)
    best = tl.full([], MASKED, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    pooled = tl.zeros(channel.shape, tl.float32)
    for start in range(0, count, ROWS):
        rows = start + tl.arange(0, ROWS)
        tile = load_rows(base_ptr, rows, count, channel, real, DIM).to(tl.float32)
        logits = mask_scores(tl.sum(tile * weight[None, :], axis=1), load_mask(mask_ptr, rows, count), rows < count)
        higher = tl.maximum(best, tl.max(logits, axis=0))
        shares = tl.exp(logits - higher)  # [ROWS]
        shrink = tl.exp(best - higher)
        total = total * shrink + tl.sum(shares, axis=0)
        pooled = pooled * shrink + tl.sum(tile * shares[:, None], axis=0)
        best = higher
    return pooled / total
