"""Pre-norm multi-head attention block, self or cross (paper section 3.2; steps 3, 4, 5 and 11 of the network)."""

import torch
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import dropout, layer_norm, masked_softmax
from img_deploy.kernels.linear_gradient import linear

_ROUNDED = "rounded to {} bits: q, k, v, the softmax's weights and the LayerNorms' outputs"

TOLERANCES = {
    "fp32": Tolerance(1e-5, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
    "fp16": Tolerance(5e-3, 1e-3, _ROUNDED.format(11)),
    "bf16": Tolerance(4e-2, 8e-3, _ROUNDED.format(8)),
}
"""Kernel against this in float64: storage dtype -> tolerance of the result, whose size is about 1 to 10."""


def attention_block(
    x: Tensor,
    context: Tensor | None,
    context_mask: Tensor | None,
    norm_x_weight: Tensor,
    norm_x_bias: Tensor,
    norm_context_weight: Tensor | None,
    norm_context_bias: Tensor | None,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    norm_out_weight: Tensor,
    norm_out_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    heads: int,
    dropout_p: float = 0.0,
) -> Tensor:
    """``r = attention(LN(x), LN(context)) + x``, then ``Linear(LN(r)) + r``.

    Args:
        x: [B, L, D], the queries.
        context: [B, M, D], keys and values; None for self-attention (``x`` under its own LayerNorm).
        context_mask: [B, M] bool, True at real positions; None if all are. Rows with none give the mean.
        norm_*: [D]; ``norm_context_*`` are None for self-attention.
        qkv_weight, qkv_bias: [3D, D], [3D], query, key and value one below the other.
        out_weight, out_bias: [D, D], [D].
        heads: H, dividing D.
        dropout_p: training only.

    Returns:
        [B, L, D] in ``x.dtype``; softmax and LayerNorm statistics in float32.
    """
    dim = x.shape[-1]
    normed = dropout(layer_norm(x, norm_x_weight, norm_x_bias), dropout_p)
    if context is None:
        q, k, v = linear(normed, qkv_weight, qkv_bias).chunk(3, dim=-1)
    else:
        assert norm_context_weight is not None
        assert norm_context_bias is not None
        source = dropout(layer_norm(context, norm_context_weight, norm_context_bias), dropout_p)
        q = linear(normed, qkv_weight[:dim], qkv_bias[:dim])
        k, v = linear(source, qkv_weight[dim:], qkv_bias[dim:]).chunk(2, dim=-1)
    q, k, v = (split_heads(part, heads) for part in (q * (dim // heads) ** -0.5, k, v))  # [B, H, *, D/H]
    scores = (q @ k.transpose(-1, -2)).float()  # [B, H, L, M]
    mask = None if context_mask is None else context_mask[:, None, None, :]
    weights = dropout(masked_softmax(scores, mask).to(x.dtype), dropout_p)
    attended = (weights @ v).transpose(1, 2).flatten(2)  # [B, L, D]
    residual = dropout(attended, dropout_p) + x
    hidden = dropout(layer_norm(residual, norm_out_weight, norm_out_bias), dropout_p)
    return dropout(linear(hidden, out_weight, out_bias), dropout_p) + residual


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, D] -> [B, H, L, D/H]."""
    return torch.unflatten(x, -1, (heads, x.shape[-1] // heads)).transpose(1, 2)
