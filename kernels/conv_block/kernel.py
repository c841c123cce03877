"""Stack of depthwise-separable convolutions in one launch, each block of clips with the neighbours it needs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import Shapes, calls_of, padded, run_over_rows
from img_deploy.kernels.tiles import channels, layer_norm, linear, load_mask, load_rows, load_vector, spread, store_rows
from img_deploy.kernels.tuning import BATCH_REGIMES, LaunchConfig, TuningCall


@triton.jit
def _shifted(tile, index, STEP: tl.constexpr):
    """Row i of the result is row i + STEP of ``tile``, zeros where there is none; float32.

    In 16 bits and for few rows it is a product with ones and zeros, which is exact: tensor cores move rows from thread
    to thread with fewer instructions.
    """
    if tile.dtype != tl.float32 and tile.shape[0] <= 32:
        ones = (index[:, None] + STEP == index[None, :]).to(tl.float32)
        shifted = tl.dot(ones.to(tile.dtype), tile)
    else:
        source = index + STEP
        present = (source >= 0) & (source < tile.shape[0])
        source = tl.broadcast_to(tl.where(present, source, 0)[:, None], tile.shape)
        shifted = tl.where(present[:, None], tl.gather(tile, source, 0).to(tl.float32), 0.0)
    return shifted


@triton.jit(do_not_specialize=["clips", "positions"])
def conv_block_kernel(
    x_ptr,  # [B, L, D]
    mask_ptr,  # [B, L] bool
    position_ptr,  # [P, D]
    norm_weight_ptr,  # [n, D]
    norm_bias_ptr,  # [n, D]
    depthwise_weight_ptr,  # [n, D, K]
    pointwise_weight_ptr,  # [n, D, D]
    pointwise_bias_ptr,  # [n, D]
    clips,  # L
    positions,  # P, 1 or at least L
    out_ptr,  # [B, L, D]
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    LAYERS: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    REACH: tl.constexpr = TAPS // 2
    HALO: tl.constexpr = LAYERS * REACH
    EAGER: tl.constexpr = ROWS <= 32
    storage = x_ptr.dtype.element_ty
    sample = tl.program_id(0).to(tl.int64)
    # A program computes the rows first..end, and HALO more on either side, of which each layer spoils REACH.
    first = tl.program_id(1) * (ROWS - 2 * HALO)
    end = first + ROWS - 2 * HALO
    start = first - HALO
    if clips <= ROWS:  # the whole sample fits one program: no halo, and nothing left for the others
        first = tl.program_id(1) * ROWS
        end = first + ROWS
        start = first
    index = tl.arange(0, ROWS)
    rows = start + index
    channel, real = channels(tl.arange(0, WIDTH), DIM, 1, WIDTH)
    x = load_rows(x_ptr + sample * clips * DIM, rows, clips, channel, real, DIM).to(tl.float32)
    at = tl.where(positions == 1, 0, rows)
    x += load_rows(position_ptr, at, tl.minimum(clips, positions), channel, real, DIM).to(tl.float32)
    # As a maximum: the compiler, where it sees that a mask is one byte wide, lays the products out for bytes.
    keep = tl.max(load_mask(mask_ptr + sample * clips, rows[:, None], clips).to(tl.int32), axis=1) != 0
    for layer in range(LAYERS):
        # Weights of taps lie scattered, and each read takes long: all at once and before the norm, where they fit the
        # registers.
        taps, taps_ptr = (), depthwise_weight_ptr + layer * DIM * TAPS
        bias = load_vector(pointwise_bias_ptr + layer * DIM, channel, real)
        if EAGER:
            for tap in tl.static_range(TAPS):
                taps = taps + (load_vector(taps_ptr + tap, channel * TAPS, real),)  # noqa: RUF005
        normed = layer_norm(x, norm_weight_ptr + layer * DIM, norm_bias_ptr + layer * DIM, channel, real, DIM)
        normed = tl.where(keep[:, None], normed, 0.0).to(storage)
        mixed = tl.zeros([ROWS, WIDTH], tl.float32)
        for tap in tl.static_range(TAPS):
            weight = taps[tap] if EAGER else load_vector(taps_ptr + tap, channel * TAPS, real)
            mixed += _shifted(normed, index, tap - REACH) * weight[None, :]
        pointwise_ptr = pointwise_weight_ptr + layer * DIM * DIM
        hidden = linear(spread(bias, ROWS), mixed.to(storage), pointwise_ptr, DIM, DIM, 1, WIDTH, CHUNK)
        x += tl.maximum(hidden, 0.0)
    store_rows(out_ptr + sample * clips * DIM, x, rows, first, tl.minimum(end, clips), channel, real, DIM)


def shapes(batch: int, clips: int, dim: int, layers: int, taps: int, positions: int = 1) -> Shapes:
    return {
        "x": (batch, clips, dim),
        "mask": (batch, clips),
        "position": (positions, dim),
        "norm_weight": (layers, dim),
        "norm_bias": (layers, dim),
        "depthwise_weight": (layers, dim, taps),
        "pointwise_weight": (layers, dim, dim),
        "pointwise_bias": (layers, dim),
    }


def conv_block(*inputs: Tensor) -> Tensor:
    """All layers of the stack. Arguments, in order, and result: see ``reference.py``.

    Raises:
        ValueError: a tensor's shape, dtype, device or memory layout is not what the kernel reads.
    """
    (batch, clips, dim), position, depthwise = inputs[0].shape, inputs[2], inputs[5]
    if depthwise.shape[-1] % 2 == 0:
        raise ValueError(f"conv_block: depthwise_weight: got {depthwise.shape[-1]} taps, expected an odd number")
    if 1 != len(position) < clips:
        raise ValueError(f"conv_block: position: got {len(position)} rows, expected 1 or one for each of {clips} clips")
    expected = shapes(batch, clips, dim, len(depthwise), depthwise.shape[-1], len(position))
    return run_over_rows("conv_block", expected, inputs, _launch)


def constants(layers: int, dim: int, taps: int) -> dict[str, int]:
    """Of the kernel, beside its blocks."""
    return {"DIM": dim, "WIDTH": padded(dim), "LAYERS": layers, "TAPS": taps}


def _launch(inputs: Sequence[Tensor], out: Tensor, config: LaunchConfig) -> None:
    batch, clips, _ = out.shape
    layers, _, taps = inputs[5].shape
    rows, halo = config.blocks["ROWS"], layers * (taps // 2)
    if clips > rows <= 2 * halo:
        rows = padded(4 * halo)
        config = replace(config, blocks={**config.blocks, "ROWS": rows})
    blocks = 1 if clips <= rows else triton.cdiv(clips, rows - 2 * halo)
    sizes = constants(*inputs[5].shape)
    conv_block_kernel[(batch, blocks)](*inputs, clips, len(inputs[2]), out, **sizes, **config.launch_options())


AOT_CASES = tuple(
    AotCase(
        op="conv_block",
        variant=variant,
        kernel=conv_block_kernel,
        constexprs=constants(layers, 128, 7),
        pointers={"mask_ptr": "i1"},
    )
    for variant, layers in product(BATCH_REGIMES, (2, 4))
)


def tuning_calls() -> Iterator[TuningCall]:
    """128 clips, four layers."""
    return calls_of(lambda batch: shapes(batch, 128, 128, 4, 7, 128), _launch, stages=(1, 2))
