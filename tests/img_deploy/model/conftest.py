"""Samples of the small runs as padded batches."""

from dataclasses import dataclass

import pytest
import torch

from img_deploy.model.config import ModelConfig
from img_deploy.model.stream import TextInput


@dataclass
class Sample:
    """One unpadded pair: video [L, Dv], audio [L, Da], and the query's arrays."""

    video: torch.Tensor
    audio: torch.Tensor
    features: torch.Tensor
    unknown: torch.Tensor
    chars: torch.Tensor


def draw(config: ModelConfig, clips: int, words: int, seed: int) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    width = int(torch.randint(1, 10, (1,), generator=generator))
    chars = torch.randint(0, max(config.chars, 2), (words, max(width, 4)), generator=generator)
    chars[:, width:] = 0
    unknown = torch.rand(words, generator=generator) < 0.2
    features = torch.randn(words, config.text_dim, generator=generator)
    if config.variant == "glove":
        features[unknown] = 0
    return Sample(
        torch.randn(clips, config.video_dim, generator=generator),
        torch.randn(clips, config.audio_dim, generator=generator),
        features,
        unknown,
        chars,
    )


def pad(parts: list[torch.Tensor], extra: int = 0, garbage: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """[L_i, ...] -> [B, L, ...] filled with ``garbage``, and the mask [B, L]."""
    length = max(len(part) for part in parts) + extra
    out = torch.full((len(parts), length, *parts[0].shape[1:]), garbage, dtype=parts[0].dtype)
    mask = torch.zeros(len(parts), length, dtype=torch.bool)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
        mask[row, : len(part)] = True
    return out, mask


def collate(samples: list[Sample], extra: int = 0, garbage: float = 0.0):
    """Arguments of ``IMGNetwork.forward`` for a batch; ``garbage`` fills the padded clips."""
    video, clip_mask = pad([s.video for s in samples], extra, garbage)
    audio, _ = pad([s.audio for s in samples], extra, garbage)
    features, word_mask = pad([s.features for s in samples], extra)
    unknown, _ = pad([s.unknown for s in samples], extra)
    width = max(s.chars.shape[1] for s in samples) + extra
    chars = [torch.nn.functional.pad(s.chars, (0, width - s.chars.shape[1])) for s in samples]
    return video, audio, clip_mask, TextInput(features, word_mask, unknown, pad(chars, extra)[0])


@pytest.fixture(scope="session")
def batches():
    """The functions above, for tests to draw samples and pad them."""
    from types import SimpleNamespace

    return SimpleNamespace(draw=draw, pad=pad, collate=collate)
