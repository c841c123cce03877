"""Global fusion: the pooled video beside each clip, then the gate (paper section 3.3; step 12 of the network)."""

import torch
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import attention_pool, dropout, gate, restored, shrunk
from img_deploy.kernels.linear_gradient import linear

_ROUNDED = "rounded to {} bits: the result; what enters the projection is exact"

TOLERANCES = {
    "fp32": Tolerance(4e-6, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
    "fp16": Tolerance(1.5e-3, 1e-3, _ROUNDED.format(11)),
    "bf16": Tolerance(1e-2, 8e-3, _ROUNDED.format(8)),
}
"""Kernel against this in float64: storage dtype -> tolerance of the result, whose size is about 1 to 10."""


def global_fusion(
    visual: Tensor,
    audio: Tensor,
    importance: Tensor,
    mask: Tensor,
    pool_weight: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """Gate of ``Linear([pool(x); x])`` of each modality.

    Weights carry the modality first: 0 visual, 1 audio.

    Args:
        visual, audio: [B, L, D].
        importance: [B], the fusion weight p'.
        mask: [B, L] bool, the clips that the pool sees.
        pool_weight: [2, D].
        proj_weight, proj_bias: [2, D, 2D], [2, D].
        norm_weight, norm_bias: [2, D], of the gate.
        dropout_p: training only.

    Returns:
        [B, L, D] in ``visual.dtype``.
    """
    branches = []
    for index, x in enumerate((visual, audio)):
        pooled = attention_pool(x, pool_weight[index], mask)[:, None].expand_as(x)
        hidden = dropout(torch.cat([pooled, x], dim=-1), dropout_p)  # [B, L, 2D]
        branches.append(restored(linear(shrunk(hidden), proj_weight[index], shrunk(proj_bias[index]))))
    return gate(branches[0], branches[1], importance, norm_weight, norm_bias).to(visual.dtype)
