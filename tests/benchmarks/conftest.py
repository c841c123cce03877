"""A small random bundle that eager PyTorch runs, made without an export."""

import numpy as np
import pytest

from img_deploy.runtime.bundle import WEIGHTS, Bundle, Manifest, write_manifest

MAX_CLIPS = 24


def _config(variant):
    from img_deploy.model.config import ModelConfig

    sizes = {"video_dim": 12, "audio_dim": 8, "dim": 16, "heads": 2, "max_clips": MAX_CLIPS, "gru_layers": 2}
    if variant == "tokens":
        return ModelConfig(variant="tokens", text_dim=6, **sizes)
    return ModelConfig(chars=28, **sizes)


def _write(folder, variant):
    import torch
    from safetensors.torch import save_file

    from img_deploy.model.network import IMGNetwork
    from img_deploy.text.vocabulary import Vocabulary

    config = _config(variant)
    torch.manual_seed(3)
    network = IMGNetwork(config)
    network.draw_slot_noise(3)
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)
    features = {"video": {"name": "plain", "width": 12}, "audio": {"name": "plain", "width": 8}}
    if variant == "tokens":
        features["text"] = {"name": "plain", "width": 6}
    else:
        words = ["person", "opens", "door", "cannot", "o'clock"]
        vectors = np.random.default_rng(0).standard_normal((len(words), 300), np.float32)
        (folder / "vocabulary").mkdir()
        Vocabulary(words, vectors, "abcdefghijklmnopqrstuvwxyz").save(folder / "vocabulary")
    limits = {"clips": MAX_CLIPS, "words": 40, "chars": 40}
    write_manifest(folder, Manifest(config.as_dict(), features, limits, graphs={}, noise_seed=3))
    return folder


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    """Folder of a bundle of the GloVe variant, without ONNX graphs."""
    return _write(tmp_path_factory.mktemp("glove") / "deploy", "glove")


@pytest.fixture(scope="session")
def token_bundle(tmp_path_factory):
    """A bundle of the token variant."""
    return Bundle.open(_write(tmp_path_factory.mktemp("tokens") / "deploy", "tokens"))


@pytest.fixture(scope="session")
def bundle(bundle_folder):
    """A bundle of the GloVe variant."""
    return Bundle.open(bundle_folder)


@pytest.fixture
def feature_folder(tmp_path):
    """A plain folder of two videos of 20 and 9 clips with sound, and one of 24 without."""
    random = np.random.default_rng(1)
    for vid, clips, sound in (("long", 20, True), ("short", 9, True), ("silent", 24, False)):
        (tmp_path / "video").mkdir(exist_ok=True)
        (tmp_path / "audio").mkdir(exist_ok=True)
        np.save(tmp_path / f"video/{vid}.npy", random.standard_normal((clips, 12), np.float32))
        if sound:
            np.save(tmp_path / f"audio/{vid}.npy", random.standard_normal((clips, 8), np.float32))
    return tmp_path
