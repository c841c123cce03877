"""Stack of depthwise-separable convolutions over time, padded positions zeroed."""

import torch
from torch import Tensor

from img_deploy.kernels.conv_block import reference
from img_deploy.kernels.register import Op

SCHEMA = (
    "(Tensor x, Tensor mask, Tensor norm_weight, Tensor norm_bias, Tensor depthwise_weight, "
    "Tensor pointwise_weight, Tensor pointwise_bias) -> Tensor"
)


def _fake(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


conv_block = Op("conv_block", SCHEMA, reference.conv_block, _fake)
