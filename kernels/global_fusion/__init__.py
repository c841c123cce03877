"""Global audio-visual fusion: attention pool, projection and gate."""

import torch
from torch import Tensor

from img_deploy.kernels.global_fusion import reference
from img_deploy.kernels.register import Op

SCHEMA = (
    "(Tensor visual, Tensor audio, Tensor importance, Tensor mask, Tensor pool_weight, Tensor proj_weight, "
    "Tensor proj_bias, Tensor norm_weight, Tensor norm_bias) -> Tensor"
)


def _fake(visual: Tensor, *_: object) -> Tensor:
    return torch.empty_like(visual)


global_fusion = Op("global_fusion", SCHEMA, reference.global_fusion, _fake)
