"""The two heads of a predictor (paper section 3.4; step 14 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.functional import layer_norm, restored, shrunk
from img_deploy.kernels.linear_gradient import linear

_ROUNDED = "rounded to {} bits: the LayerNorm's output; what else enters the product is exact"

TOLERANCES = {
    "fp32": Tolerance(5e-6, 1e-6, "fp32 sums in another order, approximate square root"),
    "fp16": Tolerance(2e-3, 1e-3, _ROUNDED.format(11)),
    "bf16": Tolerance(1.5e-2, 8e-3, _ROUNDED.format(8)),
}
"""Kernel against this in float64: storage dtype -> tolerance of the logits, whose size is about 1."""


def boundary_logits(
    first: Tensor,
    second: Tensor,
    x: Tensor,
    mask: Tensor,
    start_norm_weight: Tensor,
    start_norm_bias: Tensor,
    start_hidden_weight: Tensor,
    start_hidden_bias: Tensor,
    start_weight: Tensor,
    start_bias: Tensor,
    end_norm_weight: Tensor,
    end_norm_bias: Tensor,
    end_hidden_weight: Tensor,
    end_hidden_bias: Tensor,
    end_weight: Tensor,
    end_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """``Linear(ReLU(Linear([LN(encoded); x])))`` of the clips encoded once (start) and twice (end).

    Args:
        first, second, x: [B, L, D].
        mask: [B, L] bool; masked clips get ``MASKED``.
        *_norm_weight, *_norm_bias: [D].
        *_hidden_weight, *_hidden_bias: [D, 2D], [D].
        *_weight, *_bias: [1, D], [1].

    Returns:
        Start and end logits, each [B, L] float32.
    """
    start = _head(
        first, x, start_norm_weight, start_norm_bias, start_hidden_weight, start_hidden_bias, start_weight, start_bias
    )
    end = _head(second, x, end_norm_weight, end_norm_bias, end_hidden_weight, end_hidden_bias, end_weight, end_bias)
    return start.masked_fill(~mask, MASKED), end.masked_fill(~mask, MASKED)


def _head(
    encoded: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    hidden_weight: Tensor,
    hidden_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    joined = torch.cat([layer_norm(encoded, norm_weight, norm_bias), x], dim=-1)  # [B, L, 2D]
    hidden = F.relu(linear(shrunk(joined), hidden_weight, shrunk(hidden_bias)))
    return restored(linear(hidden, weight, shrunk(bias))).squeeze(-1).float()


def fake(first: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of the result."""
    start = first.new_empty(first.shape[:2], dtype=torch.float32)
    return start, torch.empty_like(start)
