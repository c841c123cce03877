"""Slot attention of both modalities (paper section 3.3, event fusion; step 11 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import masked_softmax

SLOT_NORM_EPS = 1e-5

TOLERANCES = {
    "fp32": Tolerance(5e-5, 1e-5, "fp32 sums in another order"),
    "fp16": Tolerance(1e-2, 1e-2, "rounded to 11 bits before each of 6 products in a row per iteration"),
    "bf16": Tolerance(8e-2, 8e-2, "rounded to 8 bits before each of 6 products in a row per iteration"),
}
"""Kernel against this in float64: storage dtype -> tolerance of the slots, whose values are of order one."""


def slot_attention(
    visual: Tensor,
    audio: Tensor,
    mask: Tensor,
    slots: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
    gru_weight_ih: Tensor,
    gru_weight_hh: Tensor,
    gru_bias_ih: Tensor,
    gru_bias_hh: Tensor,
    mlp_weight: Tensor,
    mlp_bias: Tensor,
    iterations: int,
) -> Tensor:
    """Refine the event slots of both modalities; the softmax runs over clips, not over slots.

    Clips and slots are normalised without scale and shift, and a normalised clip is its own key and value: what a
    LayerNorm, keys and values multiply and add is part of the weights (``img_deploy/model/fusion.py`` folds it in).
    Weights carry the modality first (0 visual, 1 audio), each modality its own.

    Args:
        visual, audio: [B, L, D].
        mask: [B, L] bool, True at real clips.
        slots: [2, B, K, D], the slots to start from.
        query_weight, query_bias: [2, D, D], [2, D], from a normalised slot to what its score is the product of with a
            clip.
        gru_weight_ih, gru_weight_hh, gru_bias_ih, gru_bias_hh: GRU cell, [2, 3D, D], [2, 3D], gates r, z, n; its input
            is a mean of clips.
        mlp_weight, mlp_bias: [2, 2, D, D], [2, 2, D], the two layers of the MLP.
        iterations: how many times the slots are refined.

    Returns:
        [2, B, K, D] in ``visual.dtype``; the recurrent state is kept in float32.
    """
    weights = (query_weight, query_bias, gru_weight_ih, gru_weight_hh, gru_bias_ih, gru_bias_hh, mlp_weight, mlp_bias)
    # Unbound together: the gradients of parts taken one by one would be added up in tensors of both modalities.
    both = zip((visual, audio), *(each.unbind(0) for each in (slots, *weights)), strict=True)
    return torch.stack([_refined(x, mask, *own, iterations=iterations) for x, *own in both])


def _refined(
    x: Tensor,
    mask: Tensor,
    slots: Tensor,
    query_weight: Tensor,
    query_bias: Tensor,
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
    clips = normalised(x)
    first, second = zip(mlp_weight.unbind(0), mlp_bias.unbind(0), strict=True)
    state = slots.float()
    for _ in range(iterations):
        query = F.linear(normalised(state).to(x.dtype), query_weight, query_bias)
        scores = query @ clips.transpose(1, 2)  # [B, K, L]
        mean = masked_softmax(scores, mask[:, None, :]).to(x.dtype) @ clips  # [B, K, D]
        state = gru_cell(mean, state, gru_weight_ih, gru_weight_hh, gru_bias_ih, gru_bias_hh)
        hidden = F.relu(F.linear(normalised(state).to(x.dtype), *first))
        state = state + F.linear(hidden, *second).float()
    return state.to(x.dtype)


def normalised(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without scale and shift, computed in float32, returned in ``x.dtype``."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=SLOT_NORM_EPS).to(x.dtype)


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
