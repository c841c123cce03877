"""Linear layers for training on the CPU, by oneDNN's matrix products.

PyTorch sends float32 products to MKL, which keeps its widest instructions to one maker's processors; oneDNN takes
them where it finds them, and is about twice as fast on the others.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_WORTH_IT = 10**7
"""Multiply-adds of a product below which the calls around it cost more than is gained."""


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear``: [..., K], [N, K], [N] -> [..., N]. By oneDNN where a gradient is wanted on the CPU in float32."""
    if _fits(x, weight):
        return LinearFunction.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One linear layer per group: [G, M, K], [G, N, K], [G, N] -> [G, M, N]."""
    if x.dtype == weight.dtype and _fits(x[0], weight[0]):
        groups = zip(x.unbind(0), weight.unbind(0), bias.unbind(0), strict=True)
        return torch.stack([LinearFunction.apply(*group) for group in groups])
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2).to(x.dtype))


class LinearFunction(torch.autograd.Function):
    """:func:`linear` by oneDNN; once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        ctx.save_for_backward(flat, weight)
        return _product(flat, weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor]:
        flat, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = _product(rows, weight.t()).view(*grad.shape[:-1], -1) if ctx.needs_input_grad[0] else None
        grad_weight = _product(rows.t(), flat.t()) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, rows.sum(0)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[M, K], [N, K] -> [M, N]."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _fits(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()  # an exported graph must not depend on how large its example is
        and x.numel() * weight.shape[0] >= _WORTH_IT
        and (x.requires_grad or weight.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and _onednn()
    )


@cache
def _onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
