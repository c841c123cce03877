"""Slot attention of both modalities, all iterations."""

import torch
from torch import Tensor

from img_deploy.kernels.register import Op
from img_deploy.kernels.slot_attention import reference

SCHEMA = (
    "(Tensor visual, Tensor audio, Tensor mask, Tensor slots, Tensor norm_input_weight, Tensor norm_input_bias, "
    "Tensor norm_slots_weight, Tensor norm_slots_bias, Tensor norm_mlp_weight, Tensor norm_mlp_bias, "
    "Tensor qkv_weight, Tensor qkv_bias, Tensor gru_weight_ih, Tensor gru_weight_hh, Tensor gru_bias_ih, "
    "Tensor gru_bias_hh, Tensor mlp_weight, Tensor mlp_bias, int iterations) -> Tensor"
)


def _fake(visual: Tensor, _audio: Tensor, _mask: Tensor, slots: Tensor, *_: object) -> Tensor:
    return torch.empty_like(slots, dtype=visual.dtype)


slot_attention = Op("slot_attention", SCHEMA, reference.slot_attention, _fake)
