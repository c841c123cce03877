"""Stack of depthwise-separable convolutions over time (paper section 3.2; steps 3 and 14 of the network)."""

import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.linear_gradient import linear
from img_deploy.kernels.pieces import depthwise_conv, dropout, layer_norm


def conv_block(
    x: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    pointwise_bias: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """``n`` times ``x + ReLU(pointwise(depthwise(LN(x))))``.

    What lies at padded positions is zeroed before each convolution (after the LayerNorm, whose bias would
    otherwise leak), so a padded sequence gives what it gives alone.

    Args:
        x: [B, L, D].
        mask: [B, L] bool, True at real positions.
        norm_weight, norm_bias: [n, D].
        depthwise_weight: [n, D, K], K odd, no bias, zero padding K // 2.
        pointwise_weight, pointwise_bias: [n, D, D], [n, D].
        dropout_p: training only.

    Returns:
        [B, L, D] in ``x.dtype``.
    """
    keep = mask[..., None].to(x.dtype)
    for layer in range(norm_weight.shape[0]):
        normed = layer_norm(x, norm_weight[layer], norm_bias[layer]) * keep
        mixed = depthwise_conv(normed, depthwise_weight[layer])
        hidden = F.relu(linear(mixed, pointwise_weight[layer], pointwise_bias[layer]))
        x = x + dropout(hidden, dropout_p)
    return x
