"""Context-query attention and query concatenation (paper section 3.2; steps 6 and 7 of the network)."""

import torch
from torch import Tensor

from img_deploy.kernels.linear_gradient import linear
from img_deploy.kernels.pieces import attention_pool, dropout, masked_softmax


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
    attended = context_query_attention(
        clips,
        words,
        clip_mask,
        word_mask,
        clip_weight,
        word_weight,
        product_weight,
        attention_weight,
        attention_bias,
        dropout_p,
    )
    pooled = attention_pool(words, pool_weight, word_mask)  # [B, D]
    pooled = pooled[:, None].expand(-1, clips.shape[1], -1)
    return linear(torch.cat([attended, pooled], dim=-1), concat_weight, concat_bias)


def context_query_attention(
    clips: Tensor,
    words: Tensor,
    clip_mask: Tensor,
    word_mask: Tensor,
    clip_weight: Tensor,
    word_weight: Tensor,
    product_weight: Tensor,
    attention_weight: Tensor,
    attention_bias: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """The first half of :func:`query_attention`: Linear([C; c2q; C*c2q; C*q2c]), [B, L, D]."""
    c, q = dropout(clips, dropout_p), dropout(words, dropout_p)
    score = (c @ clip_weight)[:, :, None] + (q @ word_weight)[:, None, :]
    score = score + (c * product_weight) @ q.transpose(1, 2)  # [B, L, N]
    over_words = masked_softmax(score, word_mask[:, None, :], dim=2).to(clips.dtype)
    over_clips = masked_softmax(score, clip_mask[:, :, None], dim=1).to(clips.dtype)
    c2q = over_words @ words  # [B, L, D]
    q2c = over_words @ (over_clips.transpose(1, 2) @ clips)  # [B, L, D]
    return linear(torch.cat([clips, c2q, clips * c2q, clips * q2c], dim=-1), attention_weight, attention_bias)
