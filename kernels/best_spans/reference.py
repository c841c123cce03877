"""Span decoding: the most probable spans under start <= end (step 15 of the network)."""

import torch
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.functional import masked_softmax

_FP32 = Tolerance(1e-7, 1e-5, "scores are fp32 products of two fp32 softmaxes; each rounds about 1e-6 of its value")

TOLERANCES = {"fp32": _FP32, "fp16": _FP32, "bf16": _FP32}
"""Kernel against this in float64: storage dtype of the logits -> tolerance of the scores, which are fp32 throughout."""


def best_spans(start_logits: Tensor, end_logits: Tensor, mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` spans (i, j), i <= j, of highest ``softmax(start)_i * softmax(end)_j``, best first.

    Args:
        start_logits, end_logits: [B, L].
        mask: [B, L] bool, True at real clips.
        k: how many; where fewer spans exist, the rest have score 0 and span (0, 0).

    Returns:
        spans [B, k, 2] int64 and scores [B, k] float32. Equal scores come in row order (i, then j).
    """
    length = start_logits.shape[-1]
    start = masked_softmax(start_logits, mask) * mask
    end = masked_softmax(end_logits, mask) * mask
    joint = start[:, :, None] * end[:, None, :]  # [B, L, L]
    upper = torch.ones(length, length, dtype=torch.bool, device=joint.device).triu()
    real = upper & mask[:, :, None] & mask[:, None, :]
    joint = joint.masked_fill(~real, MASKED).flatten(1)
    order = torch.sort(joint, dim=1, descending=True, stable=True)
    scores, flat = order.values[:, :k], order.indices[:, :k]
    if scores.shape[1] < k:
        missing = k - scores.shape[1]
        scores = torch.nn.functional.pad(scores, (0, missing), value=MASKED)
        flat = torch.nn.functional.pad(flat, (0, missing))
    found = scores > MASKED / 2
    spans = torch.stack([flat // length, flat % length], dim=-1) * found[..., None]
    return spans, scores * found


def fake(start_logits: Tensor, _end: Tensor, _mask: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Shapes and dtypes of the result."""
    batch = start_logits.shape[0]
    spans = start_logits.new_empty((batch, k, 2), dtype=torch.int64)
    return spans, start_logits.new_empty((batch, k), dtype=torch.float32)
