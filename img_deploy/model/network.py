"""The IMG network and the four deployable modules that it is made of."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from img_deploy.model.branches import branches
from img_deploy.model.config import ModelConfig
from img_deploy.model.fusion import EventFusion, Fusion
from img_deploy.model.layers import linear
from img_deploy.model.stream import Predictor, Stream, TextInput


class VideoEncoder(nn.Module):
    """Clips of both streams, independent of any query (steps 1, 3, 4)."""

    def __init__(self, visual: Stream, audio: Stream) -> None:
        super().__init__()
        self.visual, self.audio = visual, audio

    def forward(self, video: Tensor, audio: Tensor, clip_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, Dv], [B, L, Da], [B, L] bool -> visual_clips, audio_clips [B, L, D]."""
        visual_clips, audio_clips = branches(
            lambda: self.visual.encode_clips(video, clip_mask), lambda: self.audio.encode_clips(audio, clip_mask)
        )
        return visual_clips, audio_clips


class GloveQueryEncoder(nn.Module):
    """Words of both streams, independent of any video (steps 2, 3), from word vectors and characters."""

    def __init__(self, visual: Stream, audio: Stream) -> None:
        super().__init__()
        self.visual, self.audio = visual, audio

    def forward(
        self, word_vectors: Tensor, word_unknown: Tensor, char_ids: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[B, N, 300], [B, N] bool, [B, N, W] int64, [B, N] bool -> visual_words, audio_words [B, N, D]."""
        text = TextInput(word_vectors, word_mask, word_unknown, char_ids)
        return _words_of(self.visual, self.audio, text)


class TokenQueryEncoder(nn.Module):
    """Words of both streams (steps 1, 3), from precomputed token features."""

    def __init__(self, visual: Stream, audio: Stream) -> None:
        super().__init__()
        self.visual, self.audio = visual, audio

    def forward(self, text: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, Dt], [B, N] bool -> visual_words, audio_words [B, N, D]."""
        query = TextInput(text, word_mask)
        return _words_of(self.visual, self.audio, query)


class Grounder(nn.Module):
    """The moment of a query in a video with sound (steps 5 to 14, fused head)."""

    def __init__(
        self, visual: Stream, audio: Stream, fusion: Fusion, saliency: nn.Linear, predictor: Predictor
    ) -> None:
        super().__init__()
        self.visual, self.audio = visual, audio
        self.fusion, self.saliency, self.predictor = fusion, saliency, predictor

    def forward(
        self,
        visual_clips: Tensor,
        audio_clips: Tensor,
        visual_words: Tensor,
        audio_words: Tensor,
        clip_mask: Tensor,
        word_mask: Tensor,
    ) -> tuple[Tensor, ...]:
        """[B, L, D] and [B, N, D] of each stream, masks bool -> start_logits, end_logits [B, L], importance [B],
        saliency, saliency_visual, saliency_audio [B, L], all float32."""
        visual, audio = branches(
            lambda: self.visual.fuse_query(visual_clips, visual_words, clip_mask, word_mask),
            lambda: self.audio.fuse_query(audio_clips, audio_words, clip_mask, word_mask),
        )
        fused, importance = self.fusion(visual, audio, clip_mask)
        logits, saliency, saliency_visual, saliency_audio = branches(
            lambda: self.predictor(fused, clip_mask),
            lambda: self.saliency(fused).squeeze(-1).float(),
            lambda: self.visual.saliency_of(visual),
            lambda: self.audio.saliency_of(audio),
        )
        return *logits, importance, saliency, saliency_visual, saliency_audio


class VisualGrounder(nn.Module):
    """The moment of a query in a video without sound: the visual head, nothing of the audio stream."""

    def __init__(self, visual: Stream) -> None:
        super().__init__()
        self.visual = visual

    def forward(
        self, visual_clips: Tensor, visual_words: Tensor, clip_mask: Tensor, word_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, D], [B, N, D], masks bool -> start_logits, end_logits, saliency [B, L] float32."""
        fused = self.visual.fuse_query(visual_clips, visual_words, clip_mask, word_mask)
        logits, saliency = branches(
            lambda: self.visual.predictor(fused, clip_mask), lambda: self.visual.saliency_of(fused)
        )
        return *logits, saliency


@dataclass
class HeadOutput:
    """One head: ``start``, ``end`` logits and ``saliency``, each [B, L] float32."""

    start: Tensor
    end: Tensor
    saliency: Tensor


@dataclass
class NetworkOutput:
    """All heads of one batch, for training and evaluation; ``importance`` is p [B] in 0..1."""

    fused: HeadOutput
    visual: HeadOutput
    audio: HeadOutput
    importance: Tensor


class IMGNetwork(nn.Module):
    """The whole network, owner of the weights; :attr:`graphs` holds the deployable modules over the same weights.

    Source: "Audio Does Matter" (ACM MM 2025), figure 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = Stream(config, config.video_dim)
        self.audio = Stream(config, config.audio_dim)
        self.fusion = Fusion(config)
        self.saliency = linear(config.dim, 1)
        self.predictor = Predictor(config)
        encoder = GloveQueryEncoder if config.variant == "glove" else TokenQueryEncoder
        # A plain dict: the weights have one owner and one name, the network.
        self.graphs: dict[str, nn.Module] = {
            "video_encoder": VideoEncoder(self.visual, self.audio),
            "query_encoder": encoder(self.visual, self.audio),
            "grounder": Grounder(self.visual, self.audio, self.fusion, self.saliency, self.predictor),
            "visual_grounder": VisualGrounder(self.visual),
        }

    def draw_slot_noise(self, seed: int) -> None:
        """Draw the recorded slot noise from ``seed`` (the same on every machine)."""
        if isinstance(self.fusion.event, EventFusion):
            noise = self.fusion.event.slot_attention.noise
            drawn = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed))
            noise.copy_(drawn)

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        clip_mask: Tensor,
        text: TextInput,
        importance_weight: float = 1.0,
    ) -> NetworkOutput:
        """All three heads of a batch of pairs.

        Args:
            video: [B, L, Dv]; audio: [B, L, Da]; clip_mask: [B, L] bool.
            text: B queries.
            importance_weight: warm-up w of the fusion weight, 1 outside training.
        """
        visual_clips, audio_clips = self.graphs["video_encoder"](video, audio, clip_mask)
        words = (self.visual.encode_words(text), self.audio.encode_words(text))
        visual_fused = self.visual.fuse_query(visual_clips, words[0], clip_mask, text.mask)
        audio_fused = self.audio.fuse_query(audio_clips, words[1], clip_mask, text.mask)
        fused, importance = self.fusion(visual_fused, audio_fused, clip_mask, importance_weight)
        return NetworkOutput(
            fused=_head(self.predictor, fused, clip_mask, self.saliency(fused).squeeze(-1).float()),
            visual=_head(self.visual.predictor, visual_fused, clip_mask, self.visual.saliency_of(visual_fused)),
            audio=_head(self.audio.predictor, audio_fused, clip_mask, self.audio.saliency_of(audio_fused)),
            importance=importance,
        )


def _words_of(visual: Stream, audio: Stream, text: TextInput) -> tuple[Tensor, Tensor]:
    visual_words, audio_words = branches(lambda: visual.encode_words(text), lambda: audio.encode_words(text))
    return visual_words, audio_words


def _head(predictor: Predictor, x: Tensor, clip_mask: Tensor, saliency: Tensor) -> HeadOutput:
    start, end = predictor(x, clip_mask)
    return HeadOutput(start, end, saliency)
