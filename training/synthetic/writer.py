"""Writes a synthetic dataset in the layout that users of the real ones have."""

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from img_deploy.training.synthetic import annotation_files
from img_deploy.training.synthetic.config import CHARADES_KINDS, SyntheticConfig
from img_deploy.training.synthetic.folder import new_folder
from img_deploy.training.synthetic.grammar import build_actions
from img_deploy.training.synthetic.queries import (
    SyntheticQuery,
    activitynet_queries,
    charades_queries,
    write_record,
)
from img_deploy.training.synthetic.scenes import Scene, plan
from img_deploy.training.synthetic.signals import Array, Prototypes, as_bytes, audio_features, visual_features
from img_deploy.training.synthetic.vectors import TokenFeatures, write_glove

Progress = Callable[[int, int], None]
"""Called with videos written so far and videos in all."""

I3D, CLIP, SLOWFAST, INTERNVIDEO2 = 1024, 512, 2304, 768
PANNS, VGGISH = 2048, 128
CLIP_TEXT, LLAMA_TEXT = 512, 4096


@dataclass(frozen=True)
class SyntheticSummary:
    """What was written."""

    folder: Path
    videos: int
    queries: int
    size: int
    """Bytes of all files."""


def write_synthetic(
    out: Path, config: SyntheticConfig | None = None, overwrite: bool = False, progress: Progress | None = None
) -> SyntheticSummary:
    """Write ``dataset/``, ``features/`` and ``planted.json`` under ``out``; the same bytes for the same configuration.

    Args:
        out: a new folder; appears when all is written.
        config: default :class:`SyntheticConfig`.
        overwrite: replace an earlier synthetic dataset at ``out``.
    Raises:
        InputError: ``out`` exists or cannot be written.
    """
    config = config or SyntheticConfig()
    with new_folder(out, overwrite) as folder:
        writer = _Writer(folder, config, progress)
        queries: list[SyntheticQuery] = []
        charades = [kind for kind in CHARADES_KINDS if kind in config.kinds]
        if charades:
            queries += writer.charades(charades)
        if "activitynet" in config.kinds:
            queries += writer.activitynet()
        write_glove(folder / "features" / "glove.840B.300d.txt", config.seed)
        write_record(folder, config.model_dump(), queries)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return SyntheticSummary(Path(out), writer.total, len(queries), size)


class _Writer:
    """Writes the files of each task under one folder."""

    def __init__(self, folder: Path, config: SyntheticConfig, progress: Progress | None) -> None:
        self._folder, self._config, self._progress = folder, config, progress
        self._actions = build_actions(config.look_alike_pairs, config.silent, config.other)
        tasks = any(kind in CHARADES_KINDS for kind in config.kinds) + ("activitynet" in config.kinds)
        self.total, self._done = config.videos * tasks, 0

    def charades(self, kinds: Sequence[str]) -> list[SyntheticQuery]:
        config, features = self._config, self._folder / "features" / "charades"
        scenes = plan(config, "charades")
        queries = charades_queries(scenes, config.seed)
        annotation_files.write_charades(self._folder / "dataset" / "charades", scenes, queries, self._actions)
        audio = self._prototypes("panns", config.audio_width or PANNS)
        writers = [self._visual_writer(kind, features) for kind in kinds]
        (features / "audio").mkdir(parents=True, exist_ok=True)
        for scene in scenes:
            for write in writers:
                write(scene)
            sound = audio_features(scene, audio, config.signal)
            if sound is not None:
                _save(features / "audio" / f"{scene.vid}.npy", sound)
            self._tick()
        if "i3d" in kinds:
            _write_shapes(features / "i3d_video", scenes)
        if "clip+sf" in kinds:
            self._clip_text(features / "clip_features" / "text_features", queries)
        if "iv2" in kinds:
            self._llama_text(features / "iv2_features" / "llama2_txt", queries)
        return queries

    def activitynet(self) -> list[SyntheticQuery]:
        config, features = self._config, self._folder / "features" / "activitynet"
        scenes = plan(config, "activitynet")
        queries = activitynet_queries(scenes, config.seed)
        annotation_files.write_activitynet(self._folder / "dataset" / "activitynet", queries)
        video, audio = self._prototypes("i3d", I3D), self._prototypes("vggish", VGGISH)
        (features / "i3d_video").mkdir(parents=True)
        (features / "audio").mkdir()
        sounds = {}
        for number, scene in enumerate(scenes):
            seen = visual_features(scene, video, config.signal)
            # Some of the real files are (T, 1, 1, 1024).
            shape = (len(seen), 1, 1, I3D) if number % 3 == 0 else seen.shape
            _save(features / "i3d_video" / f"{scene.vid}.npy", seen.reshape(shape))
            sound = audio_features(scene, audio, config.signal)
            if sound is not None:
                sounds[scene.vid] = as_bytes(sound)
            self._tick()
        _write_shapes(features / "i3d_video", scenes)
        (features / "audio" / "VGGish.pickle").write_bytes(pickle.dumps(sounds, protocol=4))
        return queries

    def _visual_writer(self, kind: str, features: Path) -> Callable[[Scene], None]:
        signal = self._config.signal
        if kind == "i3d":
            i3d = self._prototypes("i3d", self._config.video_width or I3D)
            home = _made(features / "i3d_video")
            return lambda scene: _save(home / f"{scene.vid}.npy", visual_features(scene, i3d, signal))
        if kind == "clip+sf":
            clip, slowfast = self._prototypes("clip", CLIP), self._prototypes("slowfast", SLOWFAST)
            clips = _made(features / "clip_features" / "visual_features")
            motion = _made(features / "clip_features" / "slowfast_features")

            def write_both(scene: Scene) -> None:
                _save(clips / f"{scene.vid}.npy", visual_features(scene, clip, signal))
                # The real extractors disagree by a clip or so on a video's length.
                moving = visual_features(scene, slowfast, signal, scene.clips + scene.clips % 3)
                np.savez(motion / f"{scene.vid}.npz", features=moving)

            return write_both
        internvideo2 = self._prototypes("internvideo2", INTERNVIDEO2)
        tensors = _made(features / "iv2_features" / "visual_features_6b")
        return lambda scene: _save_pt(tensors / f"{scene.vid}.pt", visual_features(scene, internvideo2, signal))

    def _clip_text(self, folder: Path, queries: Sequence[SyntheticQuery]) -> None:
        folder.mkdir(parents=True)
        tokens = TokenFeatures("clip", CLIP_TEXT, self._config.seed)
        for query in queries:
            _save(folder / f"qid_{query.qids['txt']}.npy", tokens(query.query, query.qids["txt"]))

    def _llama_text(self, folder: Path, queries: Sequence[SyntheticQuery]) -> None:
        folder.mkdir(parents=True)
        tokens = TokenFeatures("llama", LLAMA_TEXT, self._config.seed)
        for query in queries:
            if "tvr" in query.qids:
                rows = tokens(query.query, query.qids["tvr"])
                _save_pt(folder / f"qid{query.qids['tvr']}.pt", rows.astype(np.float16))

    def _prototypes(self, name: str, width: int) -> Prototypes:
        return Prototypes(self._actions, name, width, self._config.seed)

    def _tick(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self.total)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _save(path: Path, array: Array) -> None:
    np.save(path, array, allow_pickle=False)


def _save_pt(path: Path, array: np.ndarray) -> None:
    import torch

    torch.save(torch.from_numpy(array), path)


def _write_shapes(folder: Path, scenes: Sequence[Scene]) -> None:
    (folder / "feature_shapes.json").write_text(json.dumps({scene.vid: scene.clips for scene in scenes}), "utf-8")
