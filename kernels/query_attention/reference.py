"""Context-query attention and query concatenation (paper section 3.2; steps 6 and 7 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import attention_pool, dropout, masked_softmax, restored, shrunk
from img_deploy.kernels.linear_gradient import linear

SAFE_IN_FP16 = 2.0**12
"""What the first projection takes at most: its sums, up to some times as large, are rounded to fp16 as well."""
_ROUNDED = "rounded to {} bits: the softmaxes, the gathered clips and the first projection's output"

TOLERANCES = {
    "fp32": Tolerance(4e-6, 1e-6, "fp32 sums in another order, approximate exponential and square root"),
    "fp16": Tolerance(2.5e-3, 1e-3, _ROUNDED.format(11) + "; plain PyTorch in fp16 is off by 1.4 times as much"),
    "bf16": Tolerance(2e-2, 8e-3, _ROUNDED.format(8) + "; plain PyTorch in bf16 is off by twice as much"),
}
"""Kernel against this in float64: storage dtype -> tolerance of the result, whose size is about 1 to 10."""


def query_attention(
    clips: Tensor,
    words: Tensor,
    clip_mask: Tensor,
    word_mask: Tensor,
    clip_weight: Tensor,
    word_weight: Tensor,
    product_weight: Tensor,
    attention_weight: Tensor,
    attention_bias: Tensor,
    pool_weight: Tensor,
    concat_weight: Tensor,
    concat_bias: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """Clips that know the query: trilinear attention between clips and words, then the pooled query beside each clip.

    Args:
        clips, words: [B, L, D], [B, N, D].
        clip_mask, word_mask: [B, L], [B, N] bool, True at real positions.
        clip_weight, word_weight, product_weight: [D], the three vectors of the trilinear score.
        attention_weight, attention_bias: [D, 4D], [D].
        pool_weight: [D], of the words' attention pool.
        concat_weight, concat_bias: [D, 2D], [D].
        dropout_p: training only.

    Returns:
        [B, L, D] in ``clips.dtype``.
    """
    parts = attended_parts(clips, words, clip_mask, word_mask, clip_weight, word_weight, product_weight, dropout_p)
    pooled = attention_pool(words, pool_weight, word_mask)  # [B, D]
    pooled = pooled[:, None].expand(-1, clips.shape[1], -1)
    if clips.dtype == torch.float16:
        return _projected_in_fp16(parts, pooled, attention_weight, attention_bias, concat_weight, concat_bias)
    attended = linear(parts, attention_weight, attention_bias)
    return linear(torch.cat([attended, pooled], dim=-1), concat_weight, concat_bias)


def attended_parts(
    clips: Tensor,
    words: Tensor,
    clip_mask: Tensor,
    word_mask: Tensor,
    clip_weight: Tensor,
    word_weight: Tensor,
    product_weight: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """What the first projection takes: [C; c2q; C*c2q; C*q2c], [B, L, 4D], in float32 for fp16 storage."""
    c, q = dropout(clips, dropout_p), dropout(words, dropout_p)
    score = restored(shrunk(c) @ clip_weight)[:, :, None] + restored(shrunk(q) @ word_weight)[:, None, :]
    score = score + restored((shrunk(c) * product_weight) @ q.transpose(1, 2))  # [B, L, N]
    over_words = masked_softmax(score, word_mask[:, None, :], dim=2).to(clips.dtype)
    over_clips = masked_softmax(score, clip_mask[:, :, None], dim=1).to(clips.dtype)
    c2q = over_words @ words  # [B, L, D]
    q2c = over_words @ (over_clips.transpose(1, 2) @ clips)  # [B, L, D]
    if clips.dtype == torch.float16:
        clips, c2q, q2c = clips.float(), c2q.float(), q2c.float()
    return torch.cat([clips, c2q, clips * c2q, clips * q2c], dim=-1)


def _projected_in_fp16(
    parts: Tensor,
    pooled: Tensor,
    attention_weight: Tensor,
    attention_bias: Tensor,
    concat_weight: Tensor,
    concat_bias: Tensor,
) -> Tensor:
    """Both projections. The product of two clips leaves the range of fp16 long before they do: such a row is computed
    at a smaller scale."""
    scale = (SAFE_IN_FP16 / parts.abs().amax(dim=-1, keepdim=True)).clamp(max=1.0)  # [B, L, 1] float32
    attended = F.linear((parts * scale).half(), attention_weight) + (attention_bias * scale).half()
    joined = torch.cat([attended, (pooled * scale).half()], dim=-1)
    out = F.linear(joined, concat_weight) + (concat_bias * scale).half()
    return (out.float() / scale).half()
