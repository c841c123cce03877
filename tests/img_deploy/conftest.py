"""Bundles and feature folders of the tests' own making."""

import json
from pathlib import Path

import numpy as np
import pytest

VIDEO_WIDTH, AUDIO_WIDTH, TEXT_WIDTH = 24, 20, 18


def write_bundle(folder, checkpoint, weights=None):
    """A bundle of the weights alone, which the torch backend takes."""
    from safetensors.torch import save_file

    from img_deploy.runtime.bundle import VOCABULARY, WEIGHTS, Manifest, replacing, write_manifest

    with replacing(Path(folder)) as part:
        tensors = {name: tensor.contiguous().clone() for name, tensor in (weights or checkpoint.weights).items()}
        save_file(tensors, part / WEIGHTS)
        if checkpoint.vocabulary is not None:
            (part / VOCABULARY).mkdir()
            checkpoint.vocabulary.save(part / VOCABULARY)
        config = checkpoint.config
        limits = {"clips": config.max_clips, "words": 128, "chars": 128}
        manifest = Manifest(config.as_dict(), checkpoint.features, limits, {}, checkpoint.noise_seed)
        write_manifest(part, manifest)
    return Path(folder)


@pytest.fixture(scope="session")
def bundles(checkpoints, tmp_path_factory):
    """The small reference runs as bundles for the torch backend: name -> folder. Not to be changed."""
    root = tmp_path_factory.mktemp("bundles")
    return {name: write_bundle(root / name, checkpoint) for name, checkpoint in checkpoints.items()}


@pytest.fixture(scope="session")
def make_bundle():
    """Function: a checkpoint as a bundle for the torch backend in a folder."""
    return write_bundle


class Features:
    """A plain folder of features, written video by video; ``rng`` makes every call differ."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rng = folder, np.random.default_rng(0)
        (folder / "video").mkdir(parents=True)
        (folder / "audio").mkdir()

    def draw(self, rows: int, width: int) -> np.ndarray:
        return self.rng.standard_normal((rows, width), dtype=np.float32)

    def add(self, vid: str, clips: int = 8, sound: bool = True) -> None:
        np.save(self.folder / "video" / f"{vid}.npy", self.draw(clips, VIDEO_WIDTH))
        if sound:
            np.save(self.folder / "audio" / f"{vid}.npy", self.draw(clips + 2, AUDIO_WIDTH))

    def put(self, place: str, content: np.ndarray | bytes) -> None:
        """Write an array, or bytes, as ``<folder>/<place>``."""
        path = self.folder / place
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)


@pytest.fixture
def features(tmp_path):
    """Six videos of 3 to 20 clips, A to F; C and E have no sound."""
    made = Features(tmp_path / "features")
    for vid, clips in zip("ABCDEF", (3, 20, 7, 16, 5, 11), strict=True):
        made.add(vid, clips, sound=vid not in "CE")
    return made


@pytest.fixture
def new_features(tmp_path):
    """Function: an empty feature folder of a name."""
    return lambda name: Features(tmp_path / name)


@pytest.fixture
def write_lines(tmp_path):
    """Function: a file of lines (dicts become JSON)."""

    def write(name, *lines):
        path = tmp_path / name
        text = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
        return path

    return write
