"""Stack of depthwise-separable convolutions over time, padded positions zeroed."""

from img_deploy.kernels.conv_block import reference
from img_deploy.kernels.op import Op

conv_block = Op(reference.conv_block)
