"""Context-query attention with query concatenation."""

import torch
from torch import Tensor

from img_deploy.kernels.query_attention import reference
from img_deploy.kernels.register import Op

SCHEMA = (
    "(Tensor clips, Tensor words, Tensor clip_mask, Tensor word_mask, Tensor clip_weight, Tensor word_weight, "
    "Tensor product_weight, Tensor attention_weight, Tensor attention_bias, Tensor pool_weight, "
    "Tensor concat_weight, Tensor concat_bias) -> Tensor"
)


def _fake(clips: Tensor, *_: object) -> Tensor:
    return torch.empty_like(clips)


query_attention = Op("query_attention", SCHEMA, reference.query_attention, _fake)
