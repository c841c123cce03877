"""Parameter holders over the fused ops: initial values as the paper's code sets them, dropout in training only."""

import torch
from torch import Tensor, nn

from img_deploy.kernels.attention_block import attention_block
from img_deploy.kernels.bigru import bigru
from img_deploy.kernels.conv_block import conv_block
from img_deploy.kernels.functional import LAYER_NORM_EPS, dropout
from img_deploy.kernels.linear_gradient import linear as apply_linear


def xavier(*shape: int, parts: int = 1, stacked: int = 0) -> nn.Parameter:
    """Xavier-uniform parameter. ``parts`` matrices lie one below the other; ``stacked`` leading axes are separate."""
    value = torch.empty(*shape)
    flat = value.reshape(-1, *shape[stacked:])
    for item in flat:
        for block in item.chunk(parts, dim=0):
            nn.init.xavier_uniform_(block)
    return nn.Parameter(flat.reshape(shape))


def xavier_vector(dim: int, stored: tuple[int, ...], stacked: int = 0) -> nn.Parameter:
    """A [D] (or [stacked, D]) parameter drawn Xavier-uniform on the shape that a reference run stores it in."""
    rows = [nn.init.xavier_uniform_(torch.empty(stored)).reshape(dim) for _ in range(stacked or 1)]
    return nn.Parameter(torch.stack(rows) if stacked else rows[0])


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def ones(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(*shape))


class Linear(nn.Linear):
    """``nn.Linear``, faster to train on the CPU."""

    def forward(self, x: Tensor) -> Tensor:
        return apply_linear(x, self.weight, self.bias)


def linear(width_in: int, width_out: int) -> nn.Linear:
    """Linear layer with Xavier-uniform weight and zero bias."""
    layer = Linear(width_in, width_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Dropped(nn.Module):
    """Base of modules that drop activations with ``p`` while training."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def dropout_p(self) -> float:
        return self.p if self.training else 0.0


class Projection(Dropped):
    """``Linear(drop(x))``: [B, L, width] -> [B, L, D]."""

    def __init__(self, width: int, dim: int, p: float) -> None:
        super().__init__(p)
        self.linear = linear(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(dropout(x, self.dropout_p))


class AttentionBlock(Dropped):
    """Self- or cross-attention block, see :func:`img_deploy.kernels.attention_block.reference.attention_block`."""

    def __init__(self, dim: int, heads: int, p: float, cross: bool = False) -> None:
        super().__init__(p)
        self.heads = heads
        self.layer_norm_x = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.layer_norm_context = nn.LayerNorm(dim, eps=LAYER_NORM_EPS) if cross else None
        self.qkv_weight = xavier(3 * dim, dim, parts=3)
        self.qkv_bias = zeros(3 * dim)
        self.layer_norm_out = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.out = linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        norm_context = self.layer_norm_context
        return attention_block(
            x,
            context,
            context_mask,
            self.layer_norm_x.weight,
            self.layer_norm_x.bias,
            None if norm_context is None else norm_context.weight,
            None if norm_context is None else norm_context.bias,
            self.qkv_weight,
            self.qkv_bias,
            self.layer_norm_out.weight,
            self.layer_norm_out.bias,
            self.out.weight,
            self.out.bias,
            self.heads,
            dropout_p=self.dropout_p,
        )


class ConvBlock(Dropped):
    """``layers`` depthwise-separable convolutions of kernel 7, see ``kernels/conv_block``."""

    KERNEL = 7

    def __init__(self, dim: int, layers: int, p: float) -> None:
        super().__init__(p)
        self.layer_norm_weight = ones(layers, dim)
        self.layer_norm_bias = zeros(layers, dim)
        depthwise = xavier(layers, dim, 1, self.KERNEL, stacked=1)
        self.depthwise_weight = nn.Parameter(depthwise.detach().squeeze(2))
        self.pointwise_weight = xavier(layers, dim, dim, stacked=1)
        self.pointwise_bias = zeros(layers, dim)

    def forward(self, x: Tensor, mask: Tensor, position: Tensor) -> Tensor:
        return conv_block(
            x,
            mask,
            position,
            self.layer_norm_weight,
            self.layer_norm_bias,
            self.depthwise_weight,
            self.pointwise_weight,
            self.pointwise_bias,
            dropout_p=self.dropout_p,
        )


class BiGRU(nn.Module):
    """One layer of ``stacks`` independent bidirectional GRUs: [B, L, S, I] -> [B, L, S, 2H]."""

    def __init__(self, stacks: int, width: int, hidden: int) -> None:
        super().__init__()
        bound = hidden**-0.5

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(stacks, 2, *shape).uniform_(-bound, bound))

        self.weight_ih = uniform(3 * hidden, width)
        self.weight_hh = uniform(3 * hidden, hidden)
        self.bias_ih = uniform(3 * hidden)
        self.bias_hh = uniform(3 * hidden)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return bigru(x, lengths, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
