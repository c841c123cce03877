"""Slot attention of both modalities (paper section 3.3, event fusion; step 11 of the network)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.functional import linear

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
    shift = torch.where(mask, 0.0, MASKED)
    return refined(torch.stack([visual, audio]), shift, slots, weights, iterations)


def refined(x: Tensor, shift: Tensor, slots: Tensor, weights: Sequence[Tensor], iterations: int) -> Tensor:
    """The same for both modalities in one tensor ``x`` [2, B, L, D], where ``shift`` [B, L] is added to scores."""
    query, query_bias, ih, hh, ih_bias, hh_bias, mlp, mlp_bias = weights
    (first, second), (first_bias, second_bias) = mlp.unbind(1), mlp_bias.unbind(1)
    clips, dim = normalised(x).flatten(0, 1), x.shape[-1]  # [2B, L, D]
    state = slots.float()
    for _ in range(iterations):
        asked = linear(normalised(state).to(x.dtype), query, query_bias).flatten(0, 1)
        scores = torch.bmm(asked, clips.transpose(1, 2)).float().view(*slots.shape[:3], -1)  # [2, B, K, L]
        shares = torch.softmax(scores + shift[:, None], dim=-1).to(x.dtype)
        mean = torch.bmm(shares.flatten(0, 1), clips).view(slots.shape)
        # GRU cell
        given, recalled = linear(mean, ih, ih_bias).float(), linear(state.to(x.dtype), hh, hh_bias).float()
        (given, n_x), (recalled, n_h) = (each.split([2 * dim, dim], dim=-1) for each in (given, recalled))
        reset, stay = torch.sigmoid(given + recalled).chunk(2, dim=-1)
        state = torch.lerp(torch.tanh(torch.addcmul(n_x, reset, n_h)), state, stay)
        hidden = F.relu(linear(normalised(state).to(x.dtype), first, first_bias))
        state = state + linear(hidden, second, second_bias).float()
    return state.to(x.dtype)


def normalised(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without scale and shift, computed in float32, returned in ``x.dtype``."""
    return F.layer_norm(x.float(), x.shape[-1:], eps=SLOT_NORM_EPS).to(x.dtype)


def fake(visual: Tensor, _audio: Tensor, _mask: Tensor, slots: Tensor, *_: object) -> Tensor:
    """Shape and dtype of the result."""
    return torch.empty_like(slots, dtype=visual.dtype)
