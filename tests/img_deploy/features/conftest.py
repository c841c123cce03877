"""Small feature folders in every layout, with the real widths and file types."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from img_deploy.errors import FeatureError
from img_deploy.features import open_folder
from img_deploy.features.kinds import FeatureKind
from img_deploy.features.prepare import prepare_tokens
from img_deploy.features.readers import read_array

Lengths = dict[str, int]


def rows(seed: int, clips: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((clips, width), dtype=np.float32)


def save_npy(path: Path, array: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def save_npz(path: Path, **arrays: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


def save_pt(path: Path, array: Any) -> Path:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(array) if isinstance(array, np.ndarray) else array, path)
    return path


@pytest.fixture
def write() -> Any:
    """The writers of single files, as attributes."""

    class Writers:
        npy = staticmethod(save_npy)
        npz = staticmethod(save_npz)
        pt = staticmethod(save_pt)
        rows = staticmethod(rows)

    return Writers


@pytest.fixture(scope="session")
def save() -> Callable[[Path, Any], Path]:
    """Function: write an array in the format that the path's suffix names."""

    def by_suffix(path: Path, array: Any) -> Path:
        if path.suffix == ".npz":
            return save_npz(path, features=array)
        return save_npy(path, array) if path.suffix == ".npy" else save_pt(path, array)

    return by_suffix


@pytest.fixture(scope="session")
def read_features() -> Callable[..., np.ndarray]:
    """Function: a file as the network takes it."""

    def read(path: Path, width: int = 3) -> np.ndarray:
        return prepare_tokens(str(path), read_array(path), FeatureKind("plain", width))

    return read


@pytest.fixture
def charades(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``data/features/charades``: i3d, CLIP+SlowFast, InternVideo2, PANNs, CLIP and LLaMA text."""

    def build(videos: Lengths, silent: tuple[str, ...] = (), qids: tuple[int, ...] = (), slowfast: int = 0) -> Path:
        root = tmp_path / "data/features/charades"
        for seed, (vid, clips) in enumerate(videos.items()):
            save_npy(root / f"i3d_video/{vid}.npy", rows(seed, clips, 1024))
            save_npy(root / f"clip_features/visual_features/{vid}.npy", rows(seed + 100, clips, 512))
            save_npz(
                root / f"clip_features/slowfast_features/{vid}.npz",
                features=rows(seed + 200, clips + slowfast, 2304),
            )
            save_pt(root / f"iv2_features/visual_features_6b/{vid}.pt", rows(seed + 300, clips, 768))
            if vid not in silent:
                save_npy(root / f"audio/{vid}.npy", rows(seed + 400, 2 * clips + 1, 2048))
        (root / "i3d_video/feature_shapes.json").write_text("{}")
        for qid in qids:
            save_npy(root / f"clip_features/text_features/qid_{qid}.npy", rows(qid, 5, 512))
            save_pt(root / f"iv2_features/llama2_txt/qid{qid}.pt", rows(qid, 7, 4096))
        return root

    return build


@pytest.fixture
def activitynet(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``data/features/activitynet``: I3D of shape (T, 1, 1, 1024) and ``VGGish.pickle``."""

    def build(videos: Lengths, sounds: Lengths, protocol: int = 4) -> Path:
        root = tmp_path / "data/features/activitynet"
        for seed, (vid, clips) in enumerate(videos.items()):
            save_npy(root / f"i3d_video/{vid}.npy", rows(seed, clips, 1024)[:, None, None])
        generator = np.random.default_rng(9)
        table = {vid: generator.integers(0, 256, (clips, 128), dtype=np.uint8) for vid, clips in sounds.items()}
        (root / "audio").mkdir(parents=True)
        (root / "audio/VGGish.pickle").write_bytes(pickle.dumps(table, protocol=protocol))
        return root

    return build


@pytest.fixture
def plain(tmp_path: Path) -> Callable[..., Path]:
    """Writes a plain folder ``video/*.npy``, ``audio/*.npy``, ``text/N.npy``; no audio folder without sounds."""

    def build(
        videos: Lengths, sounds: Lengths, width: int = 6, audio_width: int = 4, qids: tuple[int, ...] = ()
    ) -> Path:
        root = tmp_path / "plain"
        for seed, (vid, clips) in enumerate(videos.items()):
            save_npy(root / f"video/{vid}.npy", rows(seed, clips, width))
        for seed, (vid, clips) in enumerate(sounds.items()):
            save_npy(root / f"audio/{vid}.npy", rows(seed + 50, clips, audio_width))
        for qid in qids:
            save_npy(root / f"text/{qid}.npy", rows(qid, 3, 5))
        return root

    return build


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    """An object whose unpickling leaves ``trap.marker`` behind; shown here to work when nothing guards against it."""
    proof = tmp_path / "proof"
    pickle.loads(pickle.dumps(Trap(proof)))
    assert proof.exists()
    return Trap(tmp_path / "marker")


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Function: the one line with which opening a folder ends; arguments of ``open_folder``."""

    def refusal_of(*arguments: Any, **options: Any) -> str:
        with pytest.raises(FeatureError) as caught:
            open_folder(*arguments, **options)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return refusal_of
