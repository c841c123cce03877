"""One modality of the network; the visual and the audio stream are two instances (steps 1 to 8 and 14)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from img_deploy.kernels.boundary_logits import boundary_logits
from img_deploy.kernels.functional import LAYER_NORM_EPS
from img_deploy.kernels.query_attention import query_attention
from img_deploy.model.config import ModelConfig
from img_deploy.model.layers import (
    AttentionBlock,
    ConvBlock,
    Dropped,
    Projection,
    linear,
    xavier,
    xavier_vector,
    zeros,
)
from img_deploy.model.word_embedding import WordEmbedding


@dataclass
class TextInput:
    """A batch of queries: ``features`` [B, N, Dt] (word vectors or token features) and ``mask`` [B, N] bool;
    the GloVe variant also has ``unknown`` [B, N] bool and ``char_ids`` [B, N, W] int64."""

    features: Tensor
    mask: Tensor
    unknown: Tensor | None = None
    char_ids: Tensor | None = None


class Encoder(nn.Module):
    """Position constant, two convolutions, self-attention; serves the clips and the words of its stream."""

    position: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # Row 0 of a sinusoid table: a constant, so that no answer depends on the row of the batch.
        self.register_buffer("position", torch.tensor([0.0, 1.0]).repeat(config.dim // 2))
        self.conv_block = ConvBlock(config.dim, 2, config.dropout)
        self.attention = AttentionBlock(config.dim, config.heads, config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attention(self.conv_block(x, mask, self.position[None]), None, mask)


class QueryAttention(Dropped):
    """Context-query attention and query concatenation, see ``kernels/query_attention``."""

    def __init__(self, dim: int, p: float) -> None:
        super().__init__(p)
        self.clip_weight = xavier_vector(dim, (dim, 1))
        self.word_weight = xavier_vector(dim, (dim, 1))
        self.product_weight = xavier_vector(dim, (1, 1, dim))
        self.attention_weight = xavier(dim, 4 * dim)
        self.attention_bias = zeros(dim)
        self.pool_weight = xavier_vector(dim, (dim, 1))
        self.concat_weight = xavier(dim, 2 * dim)
        self.concat_bias = zeros(dim)

    def forward(self, clips: Tensor, words: Tensor, clip_mask: Tensor, word_mask: Tensor) -> Tensor:
        return query_attention(
            clips,
            words,
            clip_mask,
            word_mask,
            self.clip_weight,
            self.word_weight,
            self.product_weight,
            self.attention_weight,
            self.attention_bias,
            self.pool_weight,
            self.concat_weight,
            self.concat_bias,
            dropout_p=self.dropout_p,
        )


class Predictor(nn.Module):
    """Start and end logits (step 14): the same encoder runs twice, the second time on its own output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.dim
        self.position = nn.Embedding(config.max_clips, dim)
        self.conv_block = ConvBlock(dim, 4, config.dropout)
        self.attention = AttentionBlock(dim, config.heads, config.dropout)
        self.layer_norm_start = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.layer_norm_end = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.start = nn.Sequential(linear(2 * dim, dim), nn.ReLU(), linear(dim, 1))
        self.end = nn.Sequential(linear(2 * dim, dim), nn.ReLU(), linear(dim, 1))

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` [B, L, D], ``mask`` [B, L] -> start and end logits [B, L] float32, ``MASKED`` at padded clips."""
        first = self.encode(x, mask)
        second = self.encode(first, mask)
        heads = ((self.layer_norm_start, self.start), (self.layer_norm_end, self.end))
        weights = [weight for norm, head in heads for part in (norm, head) for weight in part.parameters()]
        start, end = boundary_logits(first, second, x, mask, *weights)
        return start, end

    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attention(self.conv_block(x, mask, self.position.weight), None, mask)


class Stream(nn.Module):
    """One modality: its features, its view of the words, and the clips that know the query."""

    def __init__(self, config: ModelConfig, feature_dim: int) -> None:
        super().__init__()
        dim, p = config.dim, config.dropout
        self.projection = Projection(feature_dim, dim, p)
        self.words: WordEmbedding | Projection = (
            WordEmbedding(config.text_dim, config.chars, config.char_dim, dim, p)
            if config.variant == "glove"
            else Projection(config.text_dim, dim, p)
        )
        self.encoder = Encoder(config)
        self.self_attention = AttentionBlock(dim, config.heads, p)
        self.cross_attention = AttentionBlock(dim, config.heads, p, cross=True)
        self.query_attention = QueryAttention(dim, p)
        self.saliency = linear(dim, 1)
        self.predictor = Predictor(config)

    def encode_clips(self, features: Tensor, mask: Tensor) -> Tensor:
        """[B, L, Dv] -> [B, L, D], independent of the query."""
        return self.self_attention(self.encoder(self.projection(features), mask), None, mask)

    def encode_words(self, text: TextInput) -> Tensor:
        """[B, N, Dt] -> [B, N, D]."""
        if isinstance(self.words, WordEmbedding):
            embedded = self.words(text.features, text.unknown, text.char_ids)
        else:
            embedded = self.words(text.features)
        return self.encoder(embedded, text.mask)

    def fuse_query(self, clips: Tensor, words: Tensor, clip_mask: Tensor, word_mask: Tensor) -> Tensor:
        """Clips that know the query, [B, L, D] (V-hat or A-hat of the paper)."""
        crossed = self.cross_attention(clips, words, word_mask)
        return self.query_attention(crossed, words, clip_mask, word_mask)

    def saliency_of(self, fused: Tensor) -> Tensor:
        """[B, L, D] -> [B, L] float32."""
        return self.saliency(fused).squeeze(-1).float()
