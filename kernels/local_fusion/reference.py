"""Local fusion: short convolutions per modality, then the gate (paper section 3.3; step 10 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import depthwise_conv, dropout, gate, restored, shrunk
from img_deploy.kernels.linear_gradient import linear

_ROUNDED = "rounded to {} bits: the convolutions' outputs and the result"

TOLERANCES = {
    "fp32": Tolerance(4e-6, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
    "fp16": Tolerance(2e-3, 1e-3, _ROUNDED.format(11)),
    "bf16": Tolerance(1.5e-2, 8e-3, _ROUNDED.format(8)),
}
"""Kernel against this in float64: storage dtype -> tolerance of the result, whose size is about 1 to 10."""


def local_fusion(
    visual: Tensor,
    audio: Tensor,
    importance: Tensor,
    mask: Tensor,
    conv1_weight: Tensor,
    conv3_weight: Tensor,
    conv5_weight: Tensor,
    conv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """Gate of ``Linear([ReLU(conv1); ReLU(conv3); ReLU(conv5)])`` of each modality.

    Weights carry the modality first: 0 visual, 1 audio.

    Args:
        visual, audio: [B, L, D].
        importance: [B], the fusion weight p'.
        mask: [B, L] bool; padded clips are zeroed before the convolutions.
        conv{1,3,5}_weight: [2, D, K], depthwise; conv_bias: [2, 3, D].
        proj_weight, proj_bias: [2, D, 3D], [2, D].
        norm_weight, norm_bias: [2, D], of the gate.
        dropout_p: training only.

    Returns:
        [B, L, D] in ``visual.dtype``.
    """
    keep = mask[..., None].to(visual.dtype)
    branches = []
    for index, x in enumerate((shrunk(visual * keep), shrunk(audio * keep))):
        widths = [
            F.relu(depthwise_conv(x, weight[index], shrunk(conv_bias[index, width])))
            for width, weight in enumerate((conv1_weight, conv3_weight, conv5_weight))
        ]
        hidden = dropout(torch.cat(widths, dim=-1), dropout_p)  # [B, L, 3D]
        branches.append(restored(linear(hidden, proj_weight[index], shrunk(proj_bias[index]))))
    return gate(branches[0], branches[1], importance, norm_weight, norm_bias).to(visual.dtype)
