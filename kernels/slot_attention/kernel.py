"""Slot attention of both modalities in one launch: all iterations, attention, GRU cell and MLP.

Keys and values are never formed. With k = Wk x + bk and v = Wv x + bv, a slot's scores are (q Wk) x plus a number that
is the same for every clip, which the softmax over clips does not see; and its update is Wv (sum of a x) + bv, because
the weights a sum to one. So the clips are only normalised, and two products of [clips, D] with [D, D] are replaced by
two of [slots, D] with [D, D] per iteration.

Two kernels: ``rows.py`` for fp16 and bf16 (tensor cores, all slots of a sample together) and ``one_slot.py`` for fp32
(plain fp32 products, one slot per program), which takes the other types as well.
"""

from collections.abc import Iterator
from functools import partial

import torch
import triton
from torch import Tensor

from img_deploy.kernels.aot import AotCase
from img_deploy.kernels.launch import Shapes, check_inputs, padded
from img_deploy.kernels.slot_attention.one_slot import slot_attention_one_slot
from img_deploy.kernels.slot_attention.rows import slot_attention_rows
from img_deploy.kernels.tuning import LaunchConfig, TuningCall, config_for, dtype_name

LARGEST_DIM = 128
"""Up to this size a weight fits the registers of one block."""


def slot_attention(
    visual: Tensor,
    audio: Tensor,
    mask: Tensor,
    slots: Tensor,
    norm_input_weight: Tensor,
    norm_input_bias: Tensor,
    norm_slots_weight: Tensor,
    norm_slots_bias: Tensor,
    norm_mlp_weight: Tensor,
    norm_mlp_bias: Tensor,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    gru_weight_ih: Tensor,
    gru_weight_hh: Tensor,
    gru_bias_ih: Tensor,
    gru_bias_hh: Tensor,
    mlp_weight: Tensor,
    mlp_bias: Tensor,
    iterations: int,
    variant: str | None = None,
) -> Tensor:
    """Refine slots [2, B, K, D] over clips [B, L, D] of both modalities; see ``reference.py`` for the arguments.

    ``variant`` is ``rows`` or ``one_slot``; by default what suits the dtype.

    Raises:
        ValueError: an argument does not fit the others, or D is more than ``LARGEST_DIM``.
    """
    dim = visual.shape[-1]
    if dim > LARGEST_DIM:
        raise ValueError(
            f"slot_attention: got width {dim}, the kernel takes at most {LARGEST_DIM}; "
            "leave 'slot_attention' out of use_ops() to run the reference"
        )
    norms = (norm_input_weight, norm_input_bias, norm_slots_weight, norm_slots_bias, norm_mlp_weight, norm_mlp_bias)
    gru = (gru_weight_ih, gru_weight_hh, gru_bias_ih, gru_bias_hh)
    given = (visual, audio, mask, slots, *norms, qkv_weight, qkv_bias, *gru, mlp_weight, mlp_bias)
    inputs = tuple(tensor.contiguous() for tensor in given)
    check_inputs("slot_attention", _shapes(*visual.shape, slots.shape[2]), inputs)
    out = torch.empty_like(inputs[3])
    if out.numel() == 0 or visual.shape[1] == 0:
        return out.zero_()
    chosen = variant or ("one_slot" if visual.dtype == torch.float32 else "rows")
    _launch(chosen, inputs, out, iterations, config_for("slot_attention", chosen, visual.dtype, visual.device))
    return out


def _launch(variant: str, inputs: tuple[Tensor, ...], out: Tensor, iterations: int, config: LaunchConfig) -> None:
    _, batch, count, dim = out.shape
    kernel = slot_attention_rows if variant == "rows" else slot_attention_one_slot
    sizes = {"D": dim, "BLOCK_D": padded(dim), "ITERATIONS": iterations}
    grid = (batch, 2, triton.cdiv(count, config.blocks.get("ROWS", 1)))
    kernel[grid](*inputs, batch, inputs[0].shape[1], count, out, **sizes, **config.launch_options())


def _shapes(batch: int, length: int, dim: int, count: int) -> Shapes:
    norm_names = [f"norm_{where}_{part}" for where in ("input", "slots", "mlp") for part in ("weight", "bias")]
    return {
        "visual": (batch, length, dim),
        "audio": (batch, length, dim),
        "mask": (batch, length),
        "slots": (2, batch, count, dim),
        **dict.fromkeys(norm_names, (2, dim)),
        "qkv_weight": (2, 3 * dim, dim),
        "qkv_bias": (2, 3 * dim),
        "gru_weight_ih": (2, 3 * dim, dim),
        "gru_weight_hh": (2, 3 * dim, dim),
        "gru_bias_ih": (2, 3 * dim),
        "gru_bias_hh": (2, 3 * dim),
        "mlp_weight": (2, 2, dim, dim),
        "mlp_bias": (2, 2, dim),
    }


_SIZES = {"D": 128, "BLOCK_D": 128, "ITERATIONS": 3}
_MASK = {"mask_ptr": "i1"}
AOT_CASES = (
    AotCase("slot_attention", "rows", slot_attention_rows, _SIZES, _MASK, ("fp16", "bf16")),
    AotCase("slot_attention", "one_slot", slot_attention_one_slot, _SIZES, _MASK, ("fp32",)),
)


def tuning_calls() -> Iterator[TuningCall]:
    """One sample of 128 clips and three slots."""
    for case in AOT_CASES:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            name = dtype_name(dtype)
            if name not in case.dtypes:
                continue
            shapes = _shapes(1, 128, 128, 3)
            inputs = tuple(torch.randn(shape, device="cuda").to(dtype) * 0.1 for shape in shapes.values())
            inputs = (*inputs[:2], torch.ones(1, 128, dtype=torch.bool, device="cuda"), *inputs[3:])
            run = partial(_launch, case.variant, inputs, torch.empty_like(inputs[3]), 3)
            yield TuningCall(case.variant, name, run, _candidates(case.variant))


def _candidates(variant: str) -> tuple[LaunchConfig, ...]:
    if variant == "rows":
        sizes = [{"ROWS": 16, "BLOCK_L": clips} for clips in (16, 32, 64)]
    else:
        sizes = [{"BLOCK_L": clips, "BLOCK_K": columns} for clips in (16, 32) for columns in (8, 16, 32)]
    return tuple(LaunchConfig(warps, 1, blocks) for warps in (4, 8, 16) for blocks in sizes)
