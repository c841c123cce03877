"""Span decoding: the most probable spans under start <= end (step 15 of the network)."""

import torch
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.dtypes import MASKED

_FP64 = Tolerance(1e-14, 1e-11, "scores are float64 throughout: two sums over the clips, a few exp and log of 1e-16")

TOLERANCES = {"fp32": _FP64, "fp16": _FP64, "bf16": _FP64}
"""Kernel against this: storage dtype of the logits -> tolerance of the scores. Spans are the same."""


def best_spans(start_logits: Tensor, end_logits: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` spans (i, j), i <= j, of highest ``softmax(start)_i * softmax(end)_j``, best first.

    Ranked by the sum of the two logits in float64, which keeps apart what rounds to one product, or underflows.

    Args:
        start_logits, end_logits: [B, L]; of less than ``MASKED``, that is taken.
        mask: [B, L] bool, True at real clips.
        k: how many; where fewer spans exist, the rest have score 0 and span (0, 0).

    Returns:
        spans [B, k, 2] int64 and scores [B, k] float64. Equal sums come in row order (i, then j).
    """
    length = start_logits.shape[-1]
    start, end = (
        each.double().clamp(min=MASKED).masked_fill(~mask, float("-inf")) for each in (start_logits, end_logits)
    )
    upper = torch.ones(length, length, dtype=torch.bool, device=start.device).triu()
    sums = (start[:, :, None] + end[:, None, :]).masked_fill(~upper, float("-inf")).flatten(1)  # [B, L * L]
    order = torch.sort(sums, dim=1, descending=True, stable=True)
    best, flat = order.values[:, :k], order.indices[:, :k]
    missing = k - best.shape[1]
    best = torch.nn.functional.pad(best, (0, missing), value=float("-inf"))
    found = best > float("-inf")
    flat = torch.nn.functional.pad(flat, (0, missing)) * found
    i, j = flat // length, flat % length
    logs = torch.log_softmax(start, dim=1).gather(1, i) + torch.log_softmax(end, dim=1).gather(1, j)
    return torch.stack([i, j], dim=-1), logs.exp().masked_fill(~found, 0.0)


def fake(start_logits: Tensor, _end: Tensor, _mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of the result."""
    batch = start_logits.shape[0]
    spans = start_logits.new_empty((batch, k, 2), dtype=torch.int64)
    return spans, start_logits.new_empty((batch, k), dtype=torch.float64)
