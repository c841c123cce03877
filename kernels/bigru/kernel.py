"""Bidirectional GRU layer: one matrix product for all inputs, then one launch for all steps of all recurrences.

In the loop over time a program is one direction of one stack: over one sample in fp32 (``gru_one_row``, plain
products), over a few in fp16 and bf16 (``gru_batch_tile`` in ``tile.py``, tensor cores). Its recurrent weights stay in
registers for all steps and its state stays fp32; the input's part of the gates is read ahead.
"""

from collections.abc import Iterator
from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.bigru.backward import gru_backward
from img_deploy.kernels.bigru.tile import gru_batch_tile
from img_deploy.kernels.launch import STORAGE_DTYPES, padded
from img_deploy.kernels.matvec import in_chunks, load_weight, next_state, product
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for

LARGEST_HIDDEN = 128
"""Up to this size the recurrent weights of one direction fit the registers of one block."""


@triton.jit
def _biases(bias_ih_ptr, bias_hh_ptr, way, unit, H: tl.constexpr):
    """[BLOCK_H] float32: of r and z both biases together, of n the input's and the state's."""
    offset = way * 3 * H + unit
    is_unit = unit < H
    r = tl.load(bias_hh_ptr + offset, mask=is_unit, other=0.0).to(tl.float32)
    r += tl.load(bias_ih_ptr + offset, mask=is_unit, other=0.0).to(tl.float32)
    z = tl.load(bias_hh_ptr + offset + H, mask=is_unit, other=0.0).to(tl.float32)
    z += tl.load(bias_ih_ptr + offset + H, mask=is_unit, other=0.0).to(tl.float32)
    input_n = tl.load(bias_ih_ptr + offset + 2 * H, mask=is_unit, other=0.0).to(tl.float32)
    state_n = tl.load(bias_hh_ptr + offset + 2 * H, mask=is_unit, other=0.0).to(tl.float32)
    return r, z, input_n, state_n


@triton.jit(do_not_specialize=["batch", "length"])
def gru_one_row(
    gates_ptr,  # [S, B, L, 2, 3H] input's part of the gates r, z, n, without its bias
    lengths_ptr,  # [B] int32
    weight_hh_ptr,  # [S, 2, 3H, H]
    bias_ih_ptr,  # [S, 2, 3H]
    bias_hh_ptr,  # [S, 2, 3H]
    batch,
    length,
    out_ptr,  # [B, L, S, 2H]
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
    matrix = weight_hh_ptr + way * 3 * H * H
    weight_r = load_weight(matrix, 0, unit, H, COUNT, BLOCK_K)
    weight_z = load_weight(matrix, H, unit, H, COUNT, BLOCK_K)
    weight_n = load_weight(matrix, 2 * H, unit, H, COUNT, BLOCK_K)
    bias_r, bias_z, input_bias_n, bias_n = _biases(bias_ih_ptr, bias_hh_ptr, way, unit, H)

    own = tl.maximum(tl.minimum(tl.load(lengths_ptr + sample), length), 0)
    advance = 1 - 2 * direction
    stacks = tl.num_programs(1) // 2
    begin = tl.where(direction == 0, 0, own - 1)
    gate = gates_ptr + (((stack * batch + sample).to(tl.int64) * length + begin) * 2 + direction) * 3 * H + unit
    first_out = out_ptr + (sample.to(tl.int64) * length * stacks + stack) * 2 * H + direction * H
    stride = stacks * 2 * H
    # The threads that share a row of weights all hold its state, and one of them stores it. A stride that the
    # compiler cannot see through keeps it from preferring other threads, which would cost an exchange per step.
    one = tl.where(own >= 0, 1, 2)
    sharer = tl.arange(0, SHARERS)[:, None]
    target = first_out + begin * stride + (unit * one)[None, :] + 0 * sharer
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
        state = next_state(state, r_sum, z_sum, n_x.to(tl.float32) + input_bias_n, n_h)
        stored = tl.broadcast_to(state[None, :], [SHARERS, BLOCK_H]).to(out_ptr.dtype.element_ty)
        tl.store(target, stored, mask=stores)
        target += advance * stride
        r_x, z_x, n_x = next_r, next_z, next_n

    for step in range(own, length):
        tl.store(first_out + step * stride + unit, tl.zeros([BLOCK_H], out_ptr.dtype.element_ty), mask=is_unit)


def bigru(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """One layer of S bidirectional GRUs over x [B, L, S, I]; see ``reference.py``. Returns [B, L, S, 2H]."""
    return gru_recurrence(input_gates(x, weight_ih), lengths, weight_hh, bias_ih, bias_hh)


def input_gates(x: Tensor, weight_ih: Tensor) -> Tensor:
    """The input's part of all gates without its bias, one product per stack: [B, L, S, I] -> [S, B, L, 2, 3H]."""
    batch, length, stacks, width = x.shape
    rows = weight_ih.shape[1] * weight_ih.shape[2]
    weight = weight_ih.reshape(stacks, rows, width).transpose(1, 2)
    flat = torch.bmm(x.reshape(batch * length, stacks, width).transpose(0, 1), weight)
    return flat.view(stacks, batch, length, *weight_ih.shape[1:3])


def gru_recurrence(
    gates: Tensor,
    lengths: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
) -> Tensor:
    """The loop over time of S bidirectional GRUs, in one launch.

    Args:
        gates: [S, B, L, 2, 3H], the input's part of the gates r, z, n of both directions, without its bias.
        lengths: [B] int32, clips of each sample, 0..L.
        weight_hh, bias_ih, bias_hh: [S, 2, 3H, H], [S, 2, 3H], [S, 2, 3H].

    Returns:
        [B, L, S, 2H] in ``gates.dtype``, zero past each length.

    Raises:
        ValueError: H is more than ``LARGEST_HIDDEN``.
    """
    stacks, batch, length, _, _ = gates.shape
    hidden = weight_hh.shape[-1]
    if hidden > LARGEST_HIDDEN:
        raise ValueError(
            f"bigru: got hidden size {hidden}, the kernel holds the weights of at most {LARGEST_HIDDEN}; "
            "leave 'bigru' out of use_ops() to run the reference"
        )
    out = torch.empty((batch, length, stacks, 2 * hidden), dtype=gates.dtype, device=gates.device)
    if out.numel() == 0:
        return out
    inputs = (gates, lengths.to(torch.int32), weight_hh, bias_ih, bias_hh)
    variant = "one_row" if gates.dtype == torch.float32 else "batch_tile"  # tensor cores have no fp32 product
    config = config_for("bigru", f"{variant}_{padded(hidden)}", gates.dtype, gates.device)
    _launch(tuple(tensor.contiguous() for tensor in inputs), out, config)
    return out


def _launch(inputs: tuple[Tensor, ...], out: Tensor, config: LaunchConfig) -> None:
    batch, length, stacks, width = out.shape
    kernel = gru_one_row if out.dtype == torch.float32 else gru_batch_tile
    grid = (triton.cdiv(batch, config.blocks.get("BLOCK_B", 1)), 2 * stacks)
    kernel[grid](*inputs, batch, length, out, **constants(width // 2), **config.launch_options())


def constants(hidden: int) -> dict[str, int]:
    """Of both kernels, beside their blocks."""
    return {"H": hidden, "BLOCK_H": padded(hidden)}


def _cases() -> Iterator[AotCase]:
    for hidden in (16, 24, 64, 128):
        sizes, block = constants(hidden), padded(hidden)
        integers = {"lengths_ptr": "i32"}
        yield AotCase("bigru", f"one_row_{block}", gru_one_row, sizes, integers, ("fp32",))
        yield AotCase("bigru", f"batch_tile_{block}", gru_batch_tile, sizes, integers, ("fp16", "bf16"))
        yield AotCase("bigru", f"backward_{block}", gru_backward, sizes, dtypes=("fp32",))


AOT_CASES = tuple(_cases())


def tuning_calls() -> Iterator[TuningCall]:
    """Both layers of the network at 128 clips, one sample: three stacks of hidden size 64, and one of 128."""
    for case in AOT_CASES:
        hidden = case.constexprs["H"]
        if hidden not in (64, 128) or case.kernel is gru_backward:
            continue
        stacks = 192 // hidden
        for name in case.dtypes:
            dtype = STORAGE_DTYPES[name]
            gates = torch.randn(stacks, 1, 128, 2, 3 * hidden, dtype=dtype, device="cuda")
            lengths = torch.full((1,), 128, dtype=torch.int32, device="cuda")
            weight = torch.randn(stacks, 2, 3 * hidden, hidden, dtype=dtype, device="cuda") * hidden**-0.5
            bias = torch.zeros(stacks, 2, 3 * hidden, dtype=dtype, device="cuda")
            out = torch.empty(1, 128, stacks, 2 * hidden, dtype=dtype, device="cuda")
            run = partial(_launch, (gates, lengths, weight, bias, bias), out)
            yield TuningCall(case.variant, name, run, _candidates(name, padded(hidden)))


def _candidates(dtype: str, block: int) -> tuple[LaunchConfig, ...]:
    if dtype == "fp32":
        return tuple(LaunchConfig(warps, 1, {"BLOCK_K": 4 * n}) for warps in (4, 8, 16) for n in (1, 2, 4))
    return tuple(
        LaunchConfig(block // 16, 1, {"BLOCK_B": samples, "AHEAD": steps}) for samples in (4, 8) for steps in (2, 4)
    )
