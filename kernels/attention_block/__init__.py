"""Pre-norm attention block: LayerNorm, QKV, masked softmax, output projection, both residuals."""

import torch
from torch import Tensor

from img_deploy.kernels.attention_block import reference
from img_deploy.kernels.register import Op

SCHEMA = (
    "(Tensor x, Tensor? context, Tensor? context_mask, Tensor norm_x_weight, Tensor norm_x_bias, "
    "Tensor? norm_context_weight, Tensor? norm_context_bias, Tensor qkv_weight, Tensor qkv_bias, "
    "Tensor norm_out_weight, Tensor norm_out_bias, Tensor out_weight, Tensor out_bias, int heads) -> Tensor"
)


def _fake(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


attention_block = Op("attention_block", SCHEMA, reference.attention_block, _fake)
