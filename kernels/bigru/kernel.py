"""Bidirectional GRU layer: one matrix product for all inputs, then one launch for all steps of all recurrences."""

from collections.abc import Iterator
from functools import lru_cache, partial

import torch
import triton
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.bigru.triton_recurrence import gru_batch_tile, gru_one_row
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for, dtype_name

LARGEST_HIDDEN = 128
"""Up to this size the recurrent weights of one direction fit the registers of one block."""
WARPS_PER_SM = 8
"""While all samples together need no more warps than this, one program per sample is the faster way."""


def bigru(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """One layer of S bidirectional GRUs over x [S, B, L, I]; see ``reference.py``. Returns [S, B, L, 2H]."""
    gates = input_gates(x, weight_ih, bias_ih)
    return gru_recurrence(gates, lengths, weight_hh, bias_hh)


def input_gates(x: Tensor, weight_ih: Tensor, bias_ih: Tensor) -> Tensor:
    """The input's part of all gates, in one matrix product per stack: [S, B, L, I] -> [S, B, L, 2, 3H]."""
    stacks, batch, length, width = x.shape
    rows = weight_ih.shape[1] * weight_ih.shape[2]
    flat = torch.baddbmm(
        bias_ih.reshape(stacks, 1, rows),
        x.reshape(stacks, batch * length, width),
        weight_ih.reshape(stacks, rows, width).transpose(1, 2),
    )
    return flat.view(stacks, batch, length, *weight_ih.shape[1:3])


def gru_recurrence(
    gates: Tensor, lengths: Tensor, weight_hh: Tensor, bias_hh: Tensor, variant: str | None = None
) -> Tensor:
    """The loop over time of S bidirectional GRUs, in one launch.

    Args:
        gates: [S, B, L, 2, 3H], the input's part of the gates r, z, n of both directions.
        lengths: [B] int32, clips of each sample, 0..L.
        weight_hh, bias_hh: [S, 2, 3H, H], [S, 2, 3H].
        variant: ``one_row`` or ``batch_tile``; by default what suits the dtype, sizes and GPU.

    Returns:
        [S, B, L, 2H] in ``gates.dtype``, zero past each length.

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
    out = torch.empty((stacks, batch, length, 2 * hidden), dtype=gates.dtype, device=gates.device)
    if out.numel() == 0:
        return out
    chosen = variant or _choose(gates.dtype, hidden, 2 * stacks * batch, gates.device)
    config = config_for("bigru", f"{chosen}_{_padded(hidden)}", gates.dtype, gates.device)
    inputs = (gates.contiguous(), lengths.to(torch.int32).contiguous(), weight_hh.contiguous(), bias_hh.contiguous())
    _launch(chosen, inputs, out, config)
    return out


def _launch(variant: str, inputs: tuple[Tensor, Tensor, Tensor, Tensor], out: Tensor, config: LaunchConfig) -> None:
    stacks, batch, length, width = out.shape
    hidden = width // 2
    sizes = {"H": hidden, "BLOCK_H": _padded(hidden)}
    if variant == "one_row":
        gru_one_row[(batch, 2 * stacks)](*inputs, batch, length, out, **sizes, **config.launch_options())
    else:
        tiles = triton.cdiv(batch, config.blocks["BLOCK_B"])
        gru_batch_tile[(tiles, 2 * stacks)](*inputs, batch, length, out, **sizes, **config.launch_options())


def _padded(hidden: int) -> int:
    return max(16, triton.next_power_of_2(hidden))


def _choose(dtype: torch.dtype, hidden: int, recurrences: int, device: torch.device) -> str:
    if dtype == torch.float32:
        return "one_row"  # tensor cores have no fp32 product
    config = config_for("bigru", f"one_row_{_padded(hidden)}", dtype, device)
    warps = recurrences * config.num_warps
    return "one_row" if warps <= WARPS_PER_SM * _processors(device) else "batch_tile"


@lru_cache(maxsize=16)
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _cases() -> Iterator[AotCase]:
    for hidden, block in ((16, 16), (24, 32), (32, 32), (64, 64), (128, 128)):
        sizes = {"H": hidden, "BLOCK_H": block}
        integers = {"lengths_ptr": "i32"}
        yield AotCase("bigru", f"one_row_{block}", gru_one_row, sizes, integers)
        yield AotCase("bigru", f"batch_tile_{block}", gru_batch_tile, sizes, integers, ("fp16", "bf16"))


AOT_CASES = tuple(_cases())


def tuning_calls() -> Iterator[TuningCall]:
    """Both layers of the network at 128 clips: three stacks of hidden size 64, and one of 128."""
    for case in AOT_CASES:
        if case.constexprs["H"] not in (64, 128):
            continue
        hidden, stacks = case.constexprs["H"], 192 // case.constexprs["H"]
        tile = case.kernel is gru_batch_tile
        batch = 64 if tile else 1
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            name = dtype_name(dtype)
            if name not in case.dtypes:
                continue
            gates = torch.randn(stacks, batch, 128, 2, 3 * hidden, dtype=dtype, device="cuda")
            lengths = torch.full((batch,), 128, dtype=torch.int32, device="cuda")
            weight = torch.randn(stacks, 2, 3 * hidden, hidden, dtype=dtype, device="cuda") * hidden**-0.5
            bias = torch.zeros(stacks, 2, 3 * hidden, dtype=dtype, device="cuda")
            out = torch.empty(stacks, batch, 128, 2 * hidden, dtype=dtype, device="cuda")
            arguments = ("batch_tile" if tile else "one_row", (gates, lengths, weight, bias), out)
            run = partial(_launch, *arguments)
            yield TuningCall(case.variant, name, run, _candidates(case, name))


def _candidates(case: AotCase, dtype: str) -> tuple[LaunchConfig, ...]:
    if case.kernel is gru_batch_tile:
        return tuple(LaunchConfig(warps, 1, {"BLOCK_B": tile}) for warps in (4, 8) for tile in (8, 16, 32))
    widest = 4 if dtype == "fp32" else 8  # elements in 16 bytes
    return tuple(LaunchConfig(warps, 1, {"BLOCK_K": widest * n}) for warps in (4, 8, 16) for n in (1, 2, 4))
