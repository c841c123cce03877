"""Stack of depthwise-separable convolutions over time (paper section 3.2; steps 3 and 14 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import depthwise_conv, dropout, layer_norm
from img_deploy.kernels.linear_gradient import linear

_ROUNDED = "rounded to {} bits: each layer's LayerNorm and depthwise outputs, but not the sum over layers"

TOLERANCES = {
    "fp32": Tolerance(5e-6, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
    "fp16": Tolerance(4e-3, 1e-3, _ROUNDED.format(11)),
    "bf16": Tolerance(3e-2, 8e-3, _ROUNDED.format(8)),
}
"""Kernel against this in float64: storage dtype -> tolerance of the result, whose size is about 1 to 10."""


def conv_block(
    x: Tensor,
    mask: Tensor,
    position: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """``x + position``, then ``n`` times ``x + ReLU(pointwise(depthwise(LN(x))))``.

    What lies at padded positions is zeroed before each convolution (after the LayerNorm, whose bias would
    otherwise leak), so a padded sequence gives what it gives alone.

    Args:
        x: [B, L, D].
        mask: [B, L] bool, True at real positions.
        position: [P, D], a row for each position (P >= L) or one for all.
        norm_weight, norm_bias: [n, D].
        depthwise_weight: [n, D, K], K odd, no bias, zero padding K // 2.
        pointwise_weight, pointwise_bias: [n, D, D], [n, D].
        dropout_p: training only.

    Returns:
        [B, L, D] in ``x.dtype``.
    """
    # An index instead of a slice: an exported body must not depend on how long a sequence may be.
    rows = position if len(position) == 1 else position[torch.arange(x.shape[1], device=x.device)]
    x = x + rows
    keep = mask[..., None].to(x.dtype)
    # Unbound together: the gradients of layers taken one by one would be added up in tensors of all layers.
    layers = (norm_weight, norm_bias, depthwise_weight, pointwise_weight, pointwise_bias)
    for norm_w, norm_b, depthwise_w, pointwise_w, pointwise_b in zip(*(each.unbind(0) for each in layers), strict=True):
        normed = layer_norm(x, norm_w, norm_b) * keep
        hidden = F.relu(linear(depthwise_conv(normed, depthwise_w), pointwise_w, pointwise_b))
        x = x + dropout(hidden, dropout_p)
    return x
