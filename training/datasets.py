"""What a run trains on: its task, its splits, and the remarks that go with them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from img_deploy.errors import ConfigError, InputError
from img_deploy.training.clip_store import Progress
from img_deploy.training.config import TrainConfig
from img_deploy.training.constants import SplitName
from img_deploy.training.data import GroundingData, Queries, split_by_video
from img_deploy.training.tasks import open_task


@dataclass(frozen=True, eq=False)
class Datasets:
    """The queries of a run: for training, for validation, and the rest of its data."""

    data: GroundingData
    train: Queries
    """Queries with sound, the validation videos left out."""
    validation: Queries
    notes: tuple[str, ...]
    """Remarks for the user, a line each."""
    without_audio: int
    """Training queries left out because their video has no sound."""


def prepare(
    config: TrainConfig,
    progress: Progress | None = None,
    glove_progress: Progress | None = None,
) -> Datasets:
    """Annotations, features and vocabulary of a run, and its splits. Raises InputError."""
    task = open_task(config.task, config.features, config.data, config.video_width, config.audio_width)
    variant, notes = config.variant, []
    if variant == "auto":
        variant = "glove"
        if config.features != "i3d":
            present = task.text_home is not None and task.text_home.is_dir()
            variant = "tokens" if present else "glove"
            if not present:
                notes.append(f"{task.text_home}: no token features, so sentences are read as words (variant glove)")
    if variant == "tokens" and task.text is None:
        raise ConfigError(f"variant is 'tokens', but {task.name} has no token features; use glove")
    splits: tuple[SplitName, ...] = ("train", "test", "val_2") if config.select_on == "val_2" else ("train", "test")
    data = GroundingData(
        task,
        variant,  # type: ignore[arg-type]
        splits,
        config.cache_folder,
        glove=Path(config.glove) if config.glove else None,
        max_clips=config.max_clips,
        progress=progress,
        glove_progress=glove_progress,
    )
    whole = data.queries["train"]
    notes += [note for queries in data.queries.values() for note in queries.left_out]
    if config.select_on == "validation":
        train_part, validation = split_by_video(whole, config.validation_share, config.seed)
    else:
        train_part, validation = whole, data.queries[config.select_on]
    has_audio = data.has_audio(train_part)
    if not has_audio.any():
        raise InputError(f"{task.feature_folder}: got no training video with sound, expected some; add audio features")
    if silent := int((~has_audio).sum()):
        videos = len({vid for vid, has in zip(train_part.vids, has_audio, strict=True) if not has})
        notes.append(f"{silent} training queries on {videos} videos without sound are left out")
    return Datasets(data, train_part.take(np.flatnonzero(has_audio)), validation, tuple(dict.fromkeys(notes)), silent)
