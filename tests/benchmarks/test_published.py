"""The published way of computing gives the network's own answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.benchmarks.published import published_network
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork
from img_deploy.runtime.backends.torch.backend import TorchBackend

CONFIG = ModelConfig(chars=9, video_dim=5, audio_dim=4, dim=16, heads=2, max_clips=12)


@pytest.fixture(scope="module")
def backends():
    torch.manual_seed(1)
    network = IMGNetwork(CONFIG)
    network.draw_slot_noise(2)
    with torch.no_grad():  # biases of zero would hide a gate taken for another
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return TorchBackend(network), TorchBackend(published_network(network))


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), words=st.integers(1, 6), seed=st.integers(0, 99))
def test_it_gives_the_networks_answers(backends, lengths, words, seed):
    """A speed-up over something that computes another function would mean nothing."""
    random = np.random.default_rng(seed)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    feeds = {
        name: random.standard_normal((len(lengths), size, CONFIG.dim), np.float32)
        for name, size in (
            ("visual_clips", max(lengths)),
            ("audio_clips", max(lengths)),
            ("visual_words", words),
            ("audio_words", words),
        )
    }
    feeds |= {"clip_mask": mask, "word_mask": np.ones((len(lengths), words), bool)}
    expected, found = (backend.run("grounder", feeds) for backend in backends)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        real = mask if values.ndim == 2 else slice(None)
        np.testing.assert_allclose(found[name][real], values[real], atol=3e-5, err_msg=name)


def test_it_computes_all_three_predictors_and_packed_grus(backends):
    """The baseline would leave out work that the published code does, and the ratio would be too small."""
    ran = []
    network = backends[1]._network
    hooks = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in (network.predictor, network.visual.predictor, network.audio.predictor)
    ]
    grus = [module for module in network.modules() if isinstance(module, torch.nn.GRU)]
    hooks += [gru.register_forward_hook(lambda _m, inputs, _o: ran.append(type(inputs[0]).__name__)) for gru in grus]
    clips, words = np.ones((1, 3, CONFIG.dim), np.float32), np.ones((1, 2, CONFIG.dim), np.float32)
    masks = {"clip_mask": np.ones((1, 3), bool), "word_mask": np.ones((1, 2), bool)}
    feeds = {"visual_clips": clips, "audio_clips": clips, "visual_words": words, "audio_words": words, **masks}
    backends[1].run("grounder", feeds)
    for hook in hooks:
        hook.remove()
    assert ran.count("PackedSequence") == 4
    assert len(ran) == 7
