"""The blocks of several parts of the network at once, for training on a GPU: the same numbers by fewer operations.

The parts (both streams, or the three predictors) have blocks of the same sizes, each with weights of its own. Here
they lie one after the other on a first axis: activations are [S, B, L, D], weights [S, ...]. What each block computes
is said in its reference under ``kernels``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.functional import LAYER_NORM_EPS, dropout, linear
from img_deploy.kernels.word_embedding.reference import CHAR_WIDTHS, MIN_CHARS, inside_windows

Weights = dict[str, Tensor]
"""Of one block, by the names of its parameters."""


def added(mask: Tensor) -> Tensor:
    """What to add to scores, so that a softmax leaves out where ``mask`` [B, L] is False: [B, L] float32."""
    return (~mask) * MASKED


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = LAYER_NORM_EPS) -> Tensor:
    """[S, B, L, D], [S, D] twice -> [S, B, L, D]; statistics in float32."""
    parts, _, _, dim = x.shape
    weight, bias = weight.view(parts, 1, 1, dim), bias.view(parts, 1, 1, dim)
    # A sum of its own: autograd's gradient of addcmul has two products more.
    return (F.layer_norm(x.float(), (dim,), eps=eps) * weight + bias).to(x.dtype)


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[S, B, L, D], [S * D * M, 1, K] (M outputs per channel) -> [S, B, L, D * M]."""
    parts, batch, length, dim = x.shape
    channels = x.permute(1, 0, 3, 2).reshape(batch, parts * dim, length)
    out = F.conv1d(channels, weight, bias, padding=weight.shape[-1] // 2, groups=parts * dim)
    return out.view(batch, parts, -1, length).permute(1, 0, 3, 2)


def conv_block(x: Tensor, keep: Tensor, position: Tensor, weights: Weights, p: float) -> Tensor:
    """``keep`` [B, L, 1], 0 at padding; ``position`` broadcast to [S, B, L, D]."""
    x = x + position
    depthwise = weights["depthwise_weight"].transpose(0, 1).flatten(1, 2)[:, :, None]  # [n, S * D, 1, K]
    names = ("layer_norm_weight", "layer_norm_bias", "pointwise_weight", "pointwise_bias")
    layers = zip(depthwise.unbind(0), *(weights[name].unbind(1) for name in names), strict=True)
    for taps, norm_weight, norm_bias, weight, bias in layers:
        mixed = depthwise_conv(layer_norm(x, norm_weight, norm_bias) * keep, taps)
        x = x + dropout(F.relu(linear(mixed, weight, bias)), p)
    return x


def attention_block(
    x: Tensor, context: Tensor | None, masked: Tensor | None, weights: Weights, heads: int, p: float
) -> Tensor:
    """``context`` [S, B, M, D] or None for self-attention; ``masked`` is :func:`added` of the keys' mask."""
    parts, batch, length, dim = x.shape
    weight, bias = weights["qkv_weight"], weights["qkv_bias"]
    normed = dropout(layer_norm(x, weights["layer_norm_x.weight"], weights["layer_norm_x.bias"]), p)
    if context is None:
        q, k, v = _by_head(linear(normed, weight, bias), 3, heads)
    else:
        norm = weights["layer_norm_context.weight"], weights["layer_norm_context.bias"]
        source = dropout(layer_norm(context, *norm), p)
        (q_weight, kv_weight), (q_bias, kv_bias) = (each.split([dim, 2 * dim], dim=1) for each in (weight, bias))
        (q,) = _by_head(linear(normed, q_weight, q_bias), 1, heads)
        k, v = _by_head(linear(source, kv_weight, kv_bias), 2, heads)
    scores = torch.bmm(q * (dim // heads) ** -0.5, k.transpose(1, 2)).float()  # [S * B * H, L, M]
    if masked is not None:
        scores = scores.view(parts, batch, heads, length, -1) + masked[:, None, None]
    weighted = dropout(torch.softmax(scores, dim=-1).to(v.dtype), p)
    attended = torch.bmm(weighted.view(-1, length, k.shape[1]), v)
    attended = attended.view(parts, batch, heads, length, -1).transpose(2, 3).reshape(x.shape)
    residual = dropout(attended, p) + x
    hidden = dropout(layer_norm(residual, weights["layer_norm_out.weight"], weights["layer_norm_out.bias"]), p)
    return dropout(linear(hidden, weights["out.weight"], weights["out.bias"]), p) + residual


def _by_head(x: Tensor, count: int, heads: int) -> tuple[Tensor, ...]:
    """[S, B, L, count * D] -> ``count`` times [S * B * H, L, D / H]."""
    parts, batch, length, width = x.shape
    split = x.view(parts, batch, length, count, heads, width // (count * heads)).permute(3, 0, 1, 4, 2, 5)
    return split.reshape(count, parts * batch * heads, length, -1).unbind(0)


def attention_pool(x: Tensor, weight: Tensor, masked: Tensor) -> Tensor:
    """[S, B, L, D], [S, D], :func:`added` [B, L] -> [S, B, D]."""
    parts, batch, length, dim = x.shape
    scores = torch.bmm(x.flatten(1, 2), weight[:, :, None]).view(parts, batch, length).float()
    alpha = torch.softmax(scores + masked, dim=-1).to(x.dtype)
    return torch.bmm(alpha.view(-1, 1, length), x.flatten(0, 1)).view(parts, batch, dim)


def query_attention(
    clips: Tensor, words: Tensor, clips_masked: Tensor, words_masked: Tensor, weights: Weights, p: float
) -> Tensor:
    """[S, B, L, D], [S, B, N, D] -> [S, B, L, D]; the masks are :func:`added`."""
    length = clips.shape[2]
    c, q = dropout(clips, p), dropout(words, p)
    by_word = torch.bmm(q.flatten(1, 2), weights["word_weight"][:, :, None]).view(q.shape[:3])  # [S, B, N]
    # c @ clip_weight + (c * product_weight) @ q in one product
    asked = torch.addcmul(weights["clip_weight"][:, None, None], q, weights["product_weight"][:, None, None])
    score = torch.bmm(c.flatten(0, 1), asked.flatten(0, 1).transpose(1, 2)).float()
    score = score.view(*clips.shape[:3], -1) + by_word[:, :, None]  # [S, B, L, N]
    over_words = torch.softmax(score + words_masked[:, None], dim=3).to(clips.dtype).flatten(0, 1)
    over_clips = torch.softmax(score + clips_masked[:, :, None], dim=2).to(clips.dtype).flatten(0, 1)
    c2q = torch.bmm(over_words, words.flatten(0, 1)).view(clips.shape)
    q2c = torch.bmm(over_words, torch.bmm(over_clips.transpose(1, 2), clips.flatten(0, 1))).view(clips.shape)
    joined = torch.cat([clips, c2q, clips * c2q, clips * q2c], dim=-1)
    attended = linear(joined, weights["attention_weight"], weights["attention_bias"])
    pooled = attention_pool(words, weights["pool_weight"], words_masked)[:, :, None].expand(-1, -1, length, -1)
    return linear(torch.cat([attended, pooled], dim=-1), weights["concat_weight"], weights["concat_bias"])


def word_embedding(vectors: Tensor, unknown: Tensor, char_ids: Tensor, weights: Weights, p: float) -> Tensor:
    """[B, N, V], [B, N] bool, [B, N, W] int64 -> [S, B, N, D]."""
    batch, words, width = char_ids.shape
    table = weights["char_table.weight"].transpose(0, 1)  # [C, S, E]
    parts = table.shape[1]
    seen = dropout(torch.addcmul(vectors, unknown[..., None].to(vectors.dtype), weights["unknown"][:, None, None]), p)
    x = dropout(F.embedding(char_ids, table.flatten(1), padding_idx=0), p).flatten(0, 1)  # [B * N, W, S * E]
    windows = F.pad(x, (0, 0, 0, MIN_CHARS - 1)).unfold(1, MIN_CHARS, 1).reshape(batch * words, width, parts, -1)
    kernels = [F.pad(weights[f"char_weights.{at}"], (0, MIN_CHARS - k)) for at, k in enumerate(CHAR_WIDTHS)]
    biases = [weights[f"char_biases.{at}"] for at in range(len(CHAR_WIDTHS))]
    found = F.relu(linear(windows.permute(2, 0, 1, 3), torch.cat(kernels, dim=1).flatten(2), torch.cat(biases, dim=1)))
    found = found.view(parts, batch, words, width, -1) * inside_windows(char_ids)[:, None].to(found.dtype)
    return linear(torch.cat([seen, found.amax(dim=3)], dim=-1), weights["linear.weight"], weights["linear.bias"])


def gates(granularities: Sequence[Tensor], p: Tensor, weights: Weights) -> tuple[Tensor, ...]:
    """Each granularity's streams [2, B, L, D] and the fusion weight [B] -> each granularity [B, L, D]."""
    norm = weights["layer_norm_weight"].flatten(0, 1), weights["layer_norm_bias"].flatten(0, 1)
    visual, audio = layer_norm(torch.cat(list(granularities)), *norm).unflatten(0, (-1, 2)).unbind(1)
    return torch.lerp(visual, audio, p.to(visual.dtype)[:, None, None]).unbind(0)


def importance(x: Tensor, masked: Tensor, weights: Weights) -> Tensor:
    """Both streams [2, B, L, D] -> p [B] float32."""
    pools = attention_pool(x, weights["pool_weight"], masked).flip(0).transpose(0, 1).flatten(1)  # audio, visual
    return torch.sigmoid(F.linear(pools, weights["weight"], weights["bias"]).squeeze(-1).float())


def local_fusion(x: Tensor, keep: Tensor, weights: Weights, p: float) -> Tensor:
    """Both streams before the gate, [2, B, L, D]. The three convolutions are one of the largest width."""
    parts, batch, length, dim = x.shape
    kernels = [weights[f"conv{width}_weight"] for width in (1, 3, 5)]
    taps = torch.stack([F.pad(each, ((5 - each.shape[-1]) // 2,) * 2) for each in kernels], dim=2)  # [2, D, 3, 5]
    bias = weights["conv_bias"].transpose(1, 2).flatten()
    found = F.relu(depthwise_conv(x * keep, taps.view(-1, 1, 5), bias)).view(parts, batch, length, dim, 3)
    hidden = dropout(found.transpose(3, 4).flatten(3), p)  # [2, B, L, 3D]
    return linear(hidden, weights["proj_weight"], weights["proj_bias"])


def global_fusion(x: Tensor, masked: Tensor, weights: Weights, p: float) -> Tensor:
    """Both streams before the gate, [2, B, L, D]."""
    pooled = attention_pool(x, weights["pool_weight"], masked)[:, :, None].expand_as(x)
    hidden = dropout(torch.cat([pooled, x], dim=-1), p)  # [2, B, L, 2D]
    return linear(hidden, weights["proj_weight"], weights["proj_bias"])


def boundary_logits(
    first: Tensor, second: Tensor, x: Tensor, masked: Tensor, norm: Weights, weights: Weights
) -> tuple[Tensor, Tensor]:
    """[S, B, L, D] three times -> start and end logits, each [S, B, L] float32; ``masked`` is :func:`added`.

    The weights are [2S, ...], those of all starts before those of all ends.
    """
    encoded = layer_norm(torch.cat([first, second]), norm["weight"], norm["bias"])
    joined = torch.cat([encoded, x.repeat(2, 1, 1, 1)], dim=-1)  # [2S, B, L, 2D]
    hidden = F.relu(linear(joined, weights["0.weight"], weights["0.bias"]))
    logits = linear(hidden, weights["2.weight"], weights["2.bias"]).squeeze(-1).float() + masked
    start, end = logits.chunk(2)
    return start, end
