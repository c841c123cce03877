"""LayerNorms of several groups at once, for training on a GPU."""

from typing import Any

import torch
from torch import Tensor

from img_deploy.kernels.functional import LAYER_NORM_EPS


def grouped_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = LAYER_NORM_EPS) -> Tensor:
    """One LayerNorm over the last axis per group: [G, ..., D], [G, D] twice; in float32, returned in ``x.dtype``."""
    return NormFunction.apply(x.float(), weight, bias, eps).to(x.dtype)


class NormFunction(torch.autograd.Function):
    """:func:`grouped_norm` as one node: PyTorch's takes one weight for all groups. Once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        wide = (len(x), *[1] * (x.dim() - 2), x.shape[-1])
        normed, mean, scale = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        weight = weight.view(wide)
        ctx.save_for_backward(x, normed, mean, scale, weight)
        return torch.addcmul(bias.view(wide), normed, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, normed, mean, scale, weight = ctx.saved_tensors
        grad_x, _, _ = torch.ops.aten.native_layer_norm_backward.default(
            grad * weight, x, x.shape[-1:], mean, scale, None, None, [True, False, False]
        )
        rows = tuple(range(1, x.dim() - 1))
        return grad_x, (grad * normed).sum(rows), grad.sum(rows), None
