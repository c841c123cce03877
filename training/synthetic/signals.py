"""Feature arrays: prototypes of what happens, over noise.

A visual clip is ``signal * look prototype + noise`` while an action lasts and noise between actions; an audio frame
likewise with sound prototypes. Prototypes and noise are standard normal in every coordinate.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from img_deploy.training.synthetic.grammar import Action
from img_deploy.training.synthetic.scenes import Scene, stream

Array: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.uint8]

BYTE_SCALE = 36.0
"""One unit of feature in steps of a byte; the middle, 127.5, is 0."""


class Prototypes:
    """Look and sound prototypes of one kind of features, drawn from the seed."""

    def __init__(self, actions: Sequence[Action], name: str, width: int, seed: int) -> None:
        keys = {action.look for action in actions} | {action.sound for action in actions if action.sound}
        self.name, self.width, self.seed = name, width, seed
        self._vectors: Mapping[str, Array] = {key: _normal((width,), seed, name, "prototype", key) for key in keys}

    def __getitem__(self, key: str) -> Array:
        return self._vectors[key]


def visual_features(scene: Scene, prototypes: Prototypes, signal: float, frames: int | None = None) -> Array:
    """Sight: [frames, width] float32, one frame per clip by default."""
    keys = [event.action.look for event in scene.events]
    return _render(scene, keys, prototypes, signal, frames or scene.clips)


def audio_features(scene: Scene, prototypes: Prototypes, signal: float) -> Array | None:
    """Sound: [frames, width] float32 at one frame per second; None where the video has no sound track."""
    if scene.audio == "none":
        return None
    frames = max(1, round(scene.duration))
    keys = [event.action.sound if scene.audio == "real" else None for event in scene.events]
    return _render(scene, keys, prototypes, signal, frames)


def noise_like(shape: tuple[int, ...], seed: int, vid: str) -> Array:
    """Audio that says nothing, as long as what it replaces."""
    return _normal(shape, seed, "replaced", vid)


def as_bytes(features: Array) -> Bytes:
    """Features in the bytes of ``VGGish.pickle`` (which readers divide by 255)."""
    return np.clip(np.rint(127.5 + BYTE_SCALE * features), 0, 255).astype(np.uint8)


def _render(scene: Scene, keys: Sequence[str | None], prototypes: Prototypes, signal: float, frames: int) -> Array:
    features = _normal((frames, prototypes.width), prototypes.seed, prototypes.name, "noise", scene.vid)
    middles = (np.arange(frames) + 0.5) * scene.clips / frames  # of each frame, in clips
    for event, key in zip(scene.events, keys, strict=True):
        if key is not None:
            features[(middles >= event.first) & (middles < event.last + 1)] += np.float32(signal) * prototypes[key]
    return features


def _normal(shape: tuple[int, ...], seed: int, *names: str) -> Array:
    return stream(seed, *names).standard_normal(shape, dtype=np.float32)
