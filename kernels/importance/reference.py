"""Audio importance (paper section 3.3; step 9 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import attention_pool

_FP32 = Tolerance(2e-6, 0.0, "fp32 sums in another order, approximate exponentials; storage rounds the inputs alone")

TOLERANCES = {"fp32": _FP32, "fp16": _FP32, "bf16": _FP32}
"""Kernel against this in float64: storage dtype -> tolerance of p, which lies in 0..1."""


def importance(
    visual: Tensor, audio: Tensor, mask: Tensor, pool_weight: Tensor, weight: Tensor, bias: Tensor
) -> Tensor:
    """``p = sigmoid(Linear([pool(audio); pool(visual)]))``.

    Args:
        visual, audio: [B, L, D].
        mask: [B, L] bool, the clips that the pools see.
        pool_weight: [2, D], of visual and audio.
        weight, bias: [1, 2D], [1].

    Returns:
        [B] float32.
    """
    pools = [attention_pool(x, pool_weight[index], mask) for index, x in ((1, audio), (0, visual))]
    return torch.sigmoid(F.linear(torch.cat(pools, dim=-1), weight, bias).squeeze(-1).float())


def fake(visual: Tensor, *_: object) -> Tensor:
    """Shape and dtype of the result."""
    return visual.new_empty(visual.shape[:1], dtype=torch.float32)
