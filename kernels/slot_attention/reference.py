"""Slot attention of both modalities (paper section 3.3, event fusion; step 11 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import layer_norm, masked_softmax

SLOT_NORM_EPS = 1e-5

TOLERANCES = {
    "fp32": Tolerance(5e-5, 1e-5, "fp32 sums in another order; keys and values are folded away"),
    "fp16": Tolerance(1e-2, 1e-2, "rounded to 11 bits before each of 12 products per iteration"),
    "bf16": Tolerance(8e-2, 8e-2, "rounded to 8 bits before each of 12 products per iteration"),
}
"""Kernel against this in float64: storage dtype -> tolerance of the slots, whose values are of order one."""


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
) -> Tensor:
    """Refine the event slots of both modalities; the softmax runs over clips, not over slots.

    Weights carry the modality first (0 visual, 1 audio), each modality its own.

    Args:
        visual, audio: [B, L, D].
        mask: [B, L] bool, True at real clips.
        slots: [2, B, K, D], the slots to start from.
        norm_*: [2, D], eps 1e-5.
        qkv_weight, qkv_bias: [2, 3D, D], [2, 3D], query, key, value.
        gru_weight_ih, gru_weight_hh, gru_bias_ih, gru_bias_hh: GRU cell, [2, 3D, D], [2, 3D], gates r, z, n.
        mlp_weight, mlp_bias: [2, 2, D, D], [2, 2, D], the two layers of the MLP.
        iterations: how many times the slots are refined.

    Returns:
        [2, B, K, D] in ``visual.dtype``; the recurrent state is kept in float32.
    """
    stacked = (
        *(slots, norm_input_weight, norm_input_bias, norm_slots_weight, norm_slots_bias, norm_mlp_weight),
        *(norm_mlp_bias, qkv_weight, qkv_bias, gru_weight_ih, gru_weight_hh, gru_bias_ih, gru_bias_hh),
        *(mlp_weight, mlp_bias),
    )
    # Unbound together: the gradients of parts taken one by one would be added up in tensors of both modalities.
    both = zip((visual, audio), *(each.unbind(0) for each in stacked), strict=True)
    return torch.stack([_refined(x, mask, *weights, iterations=iterations) for x, *weights in both])


def _refined(
    x: Tensor,
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
    *,
    iterations: int,
) -> Tensor:
    """The slots [B, K, D] of one modality."""
    dim = x.shape[-1]
    normed = layer_norm(x, norm_input_weight, norm_input_bias, SLOT_NORM_EPS)
    (q_weight, kv_weight), (q_bias, kv_bias) = (each.split([dim, 2 * dim]) for each in (qkv_weight, qkv_bias))
    k, v = F.linear(normed, kv_weight, kv_bias).chunk(2, dim=-1)  # [B, L, D]
    first, second = zip(mlp_weight.unbind(0), mlp_bias.unbind(0), strict=True)
    state = slots.float()
    for _ in range(iterations):
        query = layer_norm(state, norm_slots_weight, norm_slots_bias, SLOT_NORM_EPS).to(x.dtype)
        query = F.linear(query, q_weight, q_bias)
        scores = (query @ k.transpose(1, 2)).float() * dim**-0.5  # [B, K, L]
        update = masked_softmax(scores, mask[:, None, :]).to(x.dtype) @ v  # [B, K, D]
        state = gru_cell(update, state, gru_weight_ih, gru_weight_hh, gru_bias_ih, gru_bias_hh)
        hidden = layer_norm(state, norm_mlp_weight, norm_mlp_bias, SLOT_NORM_EPS).to(x.dtype)
        state = state + F.linear(F.relu(F.linear(hidden, *first)), *second).float()
    return state.to(x.dtype)


def fake(visual: Tensor, _audio: Tensor, _mask: Tensor, slots: Tensor, *_: object) -> Tensor:
    """Shape and dtype of the result."""
    return torch.empty_like(slots, dtype=visual.dtype)


def gru_cell(
    x: Tensor, state: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """One GRU step: ``x`` [..., D] in storage dtype, ``state`` [..., D] float32. Returns the new state in float32."""
    r_x, z_x, n_x = F.linear(x, weight_ih, bias_ih).float().chunk(3, dim=-1)
    r_h, z_h, n_h = F.linear(state.to(x.dtype), weight_hh, bias_hh).float().chunk(3, dim=-1)
    reset, keep = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
    candidate = torch.tanh(n_x + reset * n_h)
    return candidate + keep * (state - candidate)
