"""Slot attention of both modalities in one launch: all iterations, attention, GRU cell and MLP.

Two kernels: ``slot_attention_rows`` for fp16 and bf16 (``rows.py``; tensor cores, the slots of one modality of one
sample are the rows of a tile) and ``slot_attention_one_slot`` for fp32 (plain fp32 products; one slot per program, as
the softmax runs over clips and slots do not meet), which takes the other types as well.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import STORAGE_DTYPES, Shapes, check_inputs, padded
from img_deploy.kernels.matvec import LOG2_E, in_chunks, load_weight, next_state, product
from img_deploy.kernels.slot_attention.rows import EPS, slot_attention_rows
from img_deploy.kernels.tiles import load_rows, load_vector, mask_scores
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for

LARGEST_DIM = 128
"""Up to this size a weight fits the registers of one block."""


@triton.jit
def normalised_vector(x, column, D: tl.constexpr):
    """LayerNorm without scale and shift of a float32 vector [BLOCK_D]; 0 from D on."""
    centred = tl.where(column < D, x - tl.sum(x, axis=0) / D, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / D + EPS)


@triton.jit
def normalised(x, column, D: tl.constexpr):
    """The same of rows [N, BLOCK_D]."""
    centred = tl.where((column < D)[None, :], x - tl.sum(x, axis=1)[:, None] / D, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, axis=1) / D + EPS)[:, None]


@triton.jit
def linear_vector(vector, weight_ptr, bias_ptr, column, D: tl.constexpr, BLOCK_K: tl.constexpr):
    """A [D, D] weight times the vector, plus a bias."""
    COUNT: tl.constexpr = vector.shape[0] // BLOCK_K
    weight = load_weight(weight_ptr, 0, column, D, COUNT, BLOCK_K)
    return product(weight, in_chunks(vector, COUNT, BLOCK_K), COUNT) + load_vector(bias_ptr, column, column < D)


@triton.jit
def attend_one(query, x_ptr, mask_ptr, length, column, D: tl.constexpr, BLOCK_L: tl.constexpr):
    """Mean of the normalised clips x [length, D], weighted by softmax(query · clip) over the real ones."""
    top, total = float("-inf"), 0.0
    mean = tl.zeros([BLOCK_L, query.shape[0]], tl.float32)
    for first in range(0, length, BLOCK_L):
        clip = first + tl.arange(0, BLOCK_L)
        x = normalised(load_rows(x_ptr, clip, length, column, column < D, D).to(tl.float32), column, D)
        real = tl.load(mask_ptr + clip, mask=clip < length, other=0) != 0
        score = tl.sum(x * query[None, :], axis=1) * LOG2_E  # in powers of two
        score = mask_scores(score, real, clip < length)
        new_top = tl.maximum(top, tl.max(score, axis=0))
        share, kept = tl.exp2(score - new_top), tl.exp2(top - new_top)
        total = total * kept + tl.sum(share, axis=0)
        mean = mean * kept + share[:, None] * x
        top = new_top
    return tl.sum(mean, axis=0) / total


@triton.jit(do_not_specialize=["batch", "length", "count"])
def slot_attention_one_slot(
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
    BLOCK_L: tl.constexpr,  # clips at a time
    BLOCK_K: tl.constexpr,  # columns of a weight per piece
):
    sample, modality, slot = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = tl.arange(0, BLOCK_D)
    own = ((modality * batch + sample) * count + slot).to(tl.int64) * D
    x_ptr = tl.where(modality == 0, visual_ptr, audio_ptr) + sample.to(tl.int64) * length * D
    mask_ptr += sample.to(tl.int64) * length
    of_query, query_bias = query_weight_ptr + modality * D * D, query_bias_ptr + modality * D
    three, two = modality * 3 * D, modality * 2 * D
    ih, ih_bias = gru_weight_ih_ptr + three * D, gru_bias_ih_ptr + three
    hh, hh_bias = gru_weight_hh_ptr + three * D, gru_bias_hh_ptr + three
    mlp, mlp_bias = mlp_weight_ptr + two * D, mlp_bias_ptr + two

    state = load_vector(slots_ptr + own, column, column < D)
    turn = 0
    while turn < ITERATIONS:  # a ``for`` loop would have the compiler read all weights before it, and spill them
        query = linear_vector(normalised_vector(state, column, D), of_query, query_bias, column, D, BLOCK_K)
        mean = attend_one(query, x_ptr, mask_ptr, length, column, D, BLOCK_L)

        r_sum, z_sum = tl.zeros_like(state), tl.zeros_like(state)
        n_x, n_h = tl.zeros_like(state), tl.zeros_like(state)
        for gate in range(3):  # r, z, n
            n_x = linear_vector(mean, ih + gate * D * D, ih_bias + gate * D, column, D, BLOCK_K)
            n_h = linear_vector(state, hh + gate * D * D, hh_bias + gate * D, column, D, BLOCK_K)
            r_sum = tl.where(gate == 0, n_x + n_h, r_sum)
            z_sum = tl.where(gate == 1, n_x + n_h, z_sum)
        state = next_state(state, r_sum, z_sum, n_x, n_h)

        hidden = linear_vector(normalised_vector(state, column, D), mlp, mlp_bias, column, D, BLOCK_K)
        state += linear_vector(tl.maximum(hidden, 0.0), mlp + D * D, mlp_bias + D, column, D, BLOCK_K)
        turn += 1
    tl.store(out_ptr + own + column, state.to(out_ptr.dtype.element_ty), mask=column < D)


def slot_attention(*given: Any, variant: str | None = None) -> Tensor:
    """Refine slots [2, B, K, D] over clips [B, L, D] of both modalities. Arguments, in order: see ``reference.py``.

    ``variant`` is ``rows`` or ``one_slot``; by default what suits the dtype.

    Raises:
        ValueError: an argument does not fit the others, or D is more than ``LARGEST_DIM``.
    """
    *tensors, iterations = given
    inputs = tuple(tensor.contiguous() for tensor in tensors)
    visual, slots = inputs[0], inputs[3]
    if visual.shape[-1] > LARGEST_DIM:
        raise ValueError(
            f"slot_attention: got width {visual.shape[-1]}, the kernel takes at most {LARGEST_DIM}; "
            "leave 'slot_attention' out of use_ops() to run the reference"
        )
    check_inputs("slot_attention", shapes(*visual.shape, slots.shape[2]), inputs)
    out = torch.empty_like(slots)
    if out.numel() == 0 or visual.shape[1] == 0:
        return out.zero_()
    chosen = variant or ("one_slot" if visual.dtype == torch.float32 else "rows")
    _launch(chosen, inputs, out, iterations, config_for("slot_attention", chosen, visual.dtype, visual.device))
    return out


def _launch(variant: str, inputs: tuple[Tensor, ...], out: Tensor, iterations: int, config: LaunchConfig) -> None:
    _, batch, count, dim = out.shape
    kernel = slot_attention_rows if variant == "rows" else slot_attention_one_slot
    grid = (batch, 2, triton.cdiv(count, config.blocks.get("ROWS", 1)))
    numbers = (batch, inputs[0].shape[1], count)
    kernel[grid](*inputs, *numbers, out, **constants(dim, iterations), **config.launch_options())


def constants(dim: int, iterations: int) -> dict[str, int]:
    """Of both kernels, beside their blocks."""
    return {"D": dim, "BLOCK_D": padded(dim), "ITERATIONS": iterations}


def shapes(batch: int, length: int, dim: int, count: int) -> Shapes:
    return {
        "visual": (batch, length, dim),
        "audio": (batch, length, dim),
        "mask": (batch, length),
        "slots": (2, batch, count, dim),
        "query_weight": (2, dim, dim),
        "query_bias": (2, dim),
        "gru_weight_ih": (2, 3 * dim, dim),
        "gru_weight_hh": (2, 3 * dim, dim),
        "gru_bias_ih": (2, 3 * dim),
        "gru_bias_hh": (2, 3 * dim),
        "mlp_weight": (2, 2, dim, dim),
        "mlp_bias": (2, 2, dim),
    }


AOT_CASES = (
    AotCase("slot_attention", "rows", slot_attention_rows, constants(128, 3), {"mask_ptr": "i1"}, ("fp16", "bf16")),
    AotCase("slot_attention", "one_slot", slot_attention_one_slot, constants(128, 3), {"mask_ptr": "i1"}, ("fp32",)),
)


def tuning_calls() -> Iterator[TuningCall]:
    """One sample of 128 clips and three slots."""
    for case in AOT_CASES:
        for name, dtype in STORAGE_DTYPES.items():
            if name not in case.dtypes:
                continue
            drawn = shapes(1, 128, 128, 3).values()
            inputs = tuple(torch.randn(shape, device="cuda").to(dtype) * 0.1 for shape in drawn)
            inputs = (*inputs[:2], torch.ones(1, 128, dtype=torch.bool, device="cuda"), *inputs[3:])
            run = partial(_launch, case.variant, inputs, torch.empty_like(inputs[3]), 3)
            yield TuningCall(case.variant, name, run, _candidates(case.variant))


def _candidates(variant: str) -> tuple[LaunchConfig, ...]:
    if variant == "rows":
        sizes = [{"ROWS": 16, "BLOCK_L": clips} for clips in (64, 128)]
    else:
        sizes = [{"BLOCK_L": clips, "BLOCK_K": columns} for clips in (16, 32) for columns in (8, 16, 32)]
    return tuple(LaunchConfig(warps, 1, blocks) for warps in (4, 8) for blocks in sizes)
