"""Features of a large scale in fp16: the span of float32, or a result that says it is none."""

import copy

import pytest
import torch

from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork
from img_deploy.model.stream import TextInput


@pytest.fixture(scope="module")
def networks():
    """A network in float32 and the same in fp16."""
    torch.manual_seed(7)
    network = IMGNetwork(ModelConfig("tokens", video_dim=64, audio_dim=48, text_dim=24, dim=32, heads=4)).eval()
    network.requires_grad_(False).draw_slot_noise(0)
    return network, copy.deepcopy(network).half()


def answers(network, video, audio, text):
    mask = torch.ones(video.shape[:2], dtype=torch.bool)
    words = TextInput(text, torch.ones(text.shape[:2], dtype=torch.bool))
    out = network(video, audio, mask, words)
    return out.fused.start, out.fused.end, out.visual.saliency, out.audio.saliency


@pytest.mark.parametrize(("clips", "sound"), [(1, 1), (30, 1), (100, 1), (1, 100), (300, 1), (3000, 1), (1, 3000)])
def test_the_span_of_float32_or_a_result_that_is_not_finite(networks, clips, sound):
    """A sum that overflows gives the whole video at a low score, which nobody can tell from an answer."""
    generator = torch.Generator().manual_seed(3)
    video = torch.randn(3, 17, 64, generator=generator) * clips
    audio = torch.randn(3, 17, 48, generator=generator) * sound
    text = torch.randn(3, 6, 24, generator=generator)
    wanted = answers(networks[0], video, audio, text)
    found = answers(networks[1], video.half(), audio.half(), text.half())
    finite = all(each.isfinite().all() for each in found[2:])
    assert finite or max(clips, sound) > 100
    if finite:
        for want, got in zip(wanted[:2], found[:2], strict=True):
            assert torch.equal(got.argmax(-1), want.argmax(-1))
            torch.testing.assert_close(got, want, atol=2e-2, rtol=0)
