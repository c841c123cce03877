"""Depthwise convolution with a hand-written backward, for training on the CPU.

PyTorch's backward of a grouped convolution and the transposes around it cost more than the arithmetic: a handful of
taps are as many multiply-adds over the whole array.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class DepthwiseFunction(torch.autograd.Function):
    """:func:`img_deploy.kernels.functional.depthwise_conv` tap by tap, ``bias`` None or [D]; once differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        taps, length = weight.t().contiguous().to(x.dtype), x.shape[1]  # [K, D]
        padded = _padded(x, len(taps))  # [B, L + K - 1, D]
        ctx.save_for_backward(padded, taps)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        if bias is None:
            out = padded[:, :length] * taps[0]
        else:
            out = torch.addcmul(bias.to(x.dtype), padded[:, :length], taps[0])
        return _accumulate(out, padded, taps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        padded, taps = ctx.saved_tensors
        width, length = len(taps), grad.shape[1]
        weight_dtype, bias_dtype = ctx.dtypes
        grad_x = None
        if ctx.needs_input_grad[0]:
            around = _padded(grad, width)
            flipped = taps.flip(0)
            grad_x = _accumulate(around[:, :length] * flipped[0], around, flipped)
        by_tap = [(padded[:, k : k + length] * grad).sum((0, 1)) for k in range(width)]
        grad_bias = None if bias_dtype is None else grad.sum((0, 1)).to(bias_dtype)
        return grad_x, torch.stack(by_tap, dim=1).to(weight_dtype), grad_bias


def _padded(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, 0, width // 2, width // 2))


def _accumulate(out: Tensor, padded: Tensor, taps: Tensor) -> Tensor:
    """Adds taps 1 and up to ``out``, which holds the first."""
    length = out.shape[1]
    for k in range(1, len(taps)):
        out.addcmul_(padded[:, k : k + length], taps[k])
    return out
