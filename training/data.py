"""Annotated queries and their features as batches, through the readers that inference uses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from img_deploy.annotations import Sample
from img_deploy.errors import InputError
from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.model.stream import TextInput
from img_deploy.text.vocabulary import Vocabulary
from img_deploy.training.clip_store import ClipStore, Packed, Progress, open_clip_store, open_text_store
from img_deploy.training.constants import SplitName
from img_deploy.training.labels import label_moments
from img_deploy.training.losses import Targets
from img_deploy.training.splits import Split
from img_deploy.training.tasks import Task
from img_deploy.training.word_table import WordTable

if TYPE_CHECKING:
    from img_deploy.model.config import Variant

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Queries:
    """Annotated queries of one split whose videos have features, one row each."""

    samples: tuple[Sample, ...]
    videos: Ints
    """[n] row of each query's video in the clip store."""
    text: Ints
    """[n] row of each query's words or token features."""
    left_out: tuple[str, ...] = ()
    """What was left out and why, a line each."""
    absent: int = 0
    """Queries left out because their video or their text has no features."""

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: Sequence[int] | Ints) -> "Queries":
        """Some of the queries, in the order of ``rows``."""
        return Queries(tuple(self.samples[row] for row in rows), self.videos[rows], self.text[rows])

    @property
    def vids(self) -> list[str]:
        return [sample.vid for sample in self.samples]

    @property
    def durations(self) -> npt.NDArray[np.float64]:
        """[n] seconds."""
        return np.array([sample.duration for sample in self.samples], np.float64)

    @property
    def windows(self) -> npt.NDArray[np.float64]:
        """[n, 2] seconds: the first annotated moment of each query."""
        return np.array([sample.windows[0] for sample in self.samples], np.float64).reshape(-1, 2)


@dataclass
class Batch:
    """B pairs of a video and a query, padded to the longest of each."""

    video: Tensor
    """[B, L, Dv] float32"""
    audio: Tensor
    """[B, L, Da] float32; zeros where a video has no sound."""
    clip_mask: Tensor
    """[B, L] bool"""
    text: TextInput
    targets: Targets | None
    """None outside training."""
    qids: list[int] = field(default_factory=list)
    vids: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.video)

    def pin_memory(self) -> "Batch":
        """For the loader's pinning thread."""
        return self._map(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        moved = {name: part if part is None else change(part) for name, part in vars(self.text).items()}
        text = TextInput(**moved)  # type: ignore[arg-type]
        targets = self.targets and Targets(*map(change, vars(self.targets).values()))
        video, audio, mask = change(self.video), change(self.audio), change(self.clip_mask)
        return Batch(video, audio, mask, text, targets, self.qids, self.vids)


class GroundingData:
    """Features and encoded queries of one task; makes batches of any of its queries.

    Args:
        task: whose annotations and features.
        variant: ``glove`` or ``tokens``.
        splits: which annotation files to read, e.g. ``("train", "test")``.
        cache: folder that keeps features, see :mod:`img_deploy.training.clip_store`.
        vocabulary: of a trained network; None builds it from the sentences and the GloVe file.
        glove: GloVe file, by default the task's own.
        max_clips: longest video in clips; None takes the kind's own.
        progress: called with how many videos (or token files) of how many are read, where they are not kept yet.
        glove_progress: called with how many bytes of how many of the GloVe file are read.

    Raises:
        InputError: annotations, features or the GloVe file are missing or broken.
    """

    def __init__(
        self,
        task: Task,
        variant: "Variant",
        splits: Sequence[SplitName],
        cache: Path,
        vocabulary: Vocabulary | None = None,
        glove: Path | None = None,
        max_clips: int | None = None,
        progress: Progress | None = None,
        glove_progress: Progress | None = None,
    ) -> None:
        self.task, self.variant, self.vocabulary = task, variant, vocabulary
        text = task.text if variant == "tokens" else None
        self.folder: FeatureFolder = open_folder(task.feature_folder, task.video, task.audio, text, max_clips)
        check_numbering(task, self.folder)
        parts = {split: Split.read(task, split) for split in splits}
        absent = f"no features in {self.folder.path}, expected those of the same dataset"
        for part in parts.values():
            part.drop({one.vid: absent for one in part.samples if one.vid not in self.folder}, "vid")
        vids = list(dict.fromkeys(sample.vid for part in parts.values() for sample in part.samples))
        self.store: ClipStore = open_clip_store(self.folder, vids, cache, progress)
        for part in parts.values():
            part.drop(self.store.left_out, "vid")
        self._words: WordTable | None = None
        self._tokens: Packed | None = None
        text_row: dict[Any, int]
        if variant == "tokens":
            key = "qid"
            qids = list(dict.fromkeys(sample.qid for part in parts.values() for sample in part.samples))
            self._tokens, unread = open_text_store(self.folder, qids, cache, progress)
            for part in parts.values():
                part.drop(unread, "qid")
            text_row = {qid: row for row, qid in enumerate(qids)}
        else:
            key = "query"
            words = {sentence: tokens for part in parts.values() for sentence, tokens in part.tokenize().items()}
            if vocabulary is None:
                from img_deploy.text.vocabulary import build_vocabulary

                sentences = [words[sample.query] for part in parts.values() for sample in part.samples]
                self.vocabulary = build_vocabulary(sentences, glove or task.glove, progress=glove_progress)
            assert self.vocabulary is not None
            self._words = WordTable(self.vocabulary, list(words.values()))
            text_row = {sentence: row for row, sentence in enumerate(words)}
        video_row = {vid: row for row, vid in enumerate(self.store.vids)}
        self.queries: dict[str, Queries] = {
            split: Queries(
                tuple(part.samples),
                np.array([video_row[sample.vid] for sample in part.samples], np.int64),
                np.array([text_row[getattr(sample, key)] for sample in part.samples], np.int64),
                (*part.notes, *self.store.remarks),
                part.absent,
            )
            for split, part in parts.items()
        }

    def clips(self, queries: Queries) -> Ints:
        """[n] clips L of each query's video."""
        return self.store.clips[queries.videos]

    def has_audio(self, queries: Queries) -> npt.NDArray[np.bool_]:
        """[n] whether each query's video has sound."""
        return self.store.has_audio[queries.videos]

    def labels(self, queries: Queries) -> Ints:
        """[n, 2] first and last clip of each query's moment."""
        windows = queries.windows
        return label_moments(windows[:, 0], windows[:, 1], self.clips(queries), queries.durations)

    def batch(self, queries: Queries, rows: Sequence[int], targets: Targets | None = None) -> Batch:
        """The queries at ``rows`` as one batch."""
        videos = queries.videos[rows]
        lengths = self.store.clips[videos]
        longest = int(lengths.max())
        video = _stacked(self.store.video, videos, longest)
        audio = _stacked(self.store.audio, videos, longest)
        mask = torch.arange(longest) < torch.from_numpy(lengths)[:, None]
        some = [queries.samples[row] for row in rows]
        return Batch(
            video,
            audio,
            mask,
            self._text(queries.text[rows]),
            targets,
            [sample.qid for sample in some],
            [sample.vid for sample in some],
        )

    def token_features(self, queries: Queries, row: int) -> npt.NDArray[np.float32]:
        """[N, Dt] token features of one query (variant ``tokens``)."""
        assert self._tokens is not None
        return np.array(self._tokens[int(queries.text[row])])

    def _text(self, rows: Ints) -> TextInput:
        if self._words is not None:
            vectors, mask, unknown, chars = self._words.batch(rows.tolist())
            return TextInput(*(torch.from_numpy(part) for part in (vectors, mask, unknown, chars)))
        assert self._tokens is not None
        lengths = torch.from_numpy(self._tokens.lengths[rows])
        features = _stacked(self._tokens, rows, int(lengths.max()))
        return TextInput(features, torch.arange(features.shape[1]) < lengths[:, None])


def check_numbering(task: Task, folder: FeatureFolder) -> None:
    """Refuse token features that go by other query ids than the task's annotation files. Raises InputError."""
    if folder.text_numbering not in (None, task.numbering):
        raise InputError(
            f"{folder.path}: {folder.wanted.text} features go by the query ids of the {folder.text_numbering} files, "
            f"but {task.name} on {task.features} is read from the {task.numbering} files; use other features"
        )


def split_by_video(queries: Queries, share: float, seed: int) -> tuple[Queries, Queries]:
    """Queries for training and for validation; no video is in both.

    Args:
        share: of the videos, that goes to validation; at least one video, and at most all but one.
    Raises:
        InputError: there is one video alone.
    """
    vids = sorted(set(queries.vids))
    if len(vids) < 2:
        raise InputError(f"validation split: got {len(vids)} videos in all, expected at least two to hold one out")
    order = np.random.default_rng([seed, 7]).permutation(len(vids))
    held = {vids[k] for k in order[: min(max(1, round(share * len(vids))), len(vids) - 1)]}
    inside = np.array([vid in held for vid in queries.vids])
    return queries.take(np.flatnonzero(~inside)), queries.take(np.flatnonzero(inside))


def _stacked(packed: Packed, indices: Ints, length: int) -> Tensor:
    """Sequences padded with zeros to ``length``, [B, length, W] float32."""
    out = torch.zeros(len(indices), length, packed.rows.shape[1])
    view = out.numpy()
    for row, index in enumerate(indices.tolist()):
        sequence = packed[index]
        view[row, : len(sequence)] = sequence
    return out
