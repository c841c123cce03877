"""What an exported graph is tried on: videos and queries of many lengths, drawn or taken from a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.errors import AnnotationError
from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.features.kinds import kind_named
from img_deploy.features.prepare import VideoFeatures
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.model.config import ModelConfig
from img_deploy.runtime.encoded import Query
from img_deploy.text.tokens import tokenize
from img_deploy.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from img_deploy.annotations import Sample as AnnotatedSample

LENGTHS = (1, 2, 3, 7, 31, 64)
"""Clips of the drawn videos; the longest that the network takes is added."""
WORDS = (1, 2, 3, 5, 8, 13, 24, 40)
RAGGED = 25
"""Videos of any other length, beside them."""
FROM_FOLDER = 32
"""Videos that are taken from a folder, at most."""
_SILENCED = 4
"""Where every video of a folder has sound, each so-manieth is also tried without."""
UNKNOWN_WORD = "zqxjkv"
_UNKNOWN_SHARE = 0.1


@dataclass(frozen=True)
class Sample:
    """One pair; ``clips.audio`` is None for a video without sound."""

    clips: VideoFeatures
    query: Query


def drawn_samples(config: ModelConfig, vocabulary: Vocabulary | None, seed: int) -> list[Sample]:
    """Videos of every tested length with sound, of ragged lengths with and without; queries of 1 to 40 words."""
    rng = np.random.default_rng(seed)
    longest = config.max_clips
    fixed = sorted({min(length, longest) for length in (*LENGTHS, longest)})
    ragged = rng.integers(1, longest + 1, RAGGED).tolist()
    samples = []
    for index, length in enumerate([*fixed, *ragged]):
        silent = index >= len(fixed) and index % 2 == 0
        video = rng.standard_normal((length, config.video_dim), np.float32)
        audio = None if silent else rng.standard_normal((length, config.audio_dim), np.float32)
        query = _drawn_query(config, vocabulary, WORDS[index % len(WORDS)], index, rng)
        samples.append(Sample(VideoFeatures(f"drawn video {index}", video, audio, length), query))
    return samples


def folder_samples(path: Path, checkpoint: Checkpoint, seed: int, queries: Path | None = None) -> list[Sample]:
    """Videos of a feature folder, short and long ones, each under a query.

    Args:
        path: feature folder.
        checkpoint: whose kinds, widths and vocabulary they are read by.
        seed: of drawn queries.
        queries: annotation file; the videos that it names are taken, each under the first of its queries. None draws
            queries of random words.

    Raises:
        FeatureError: the folder does not hold the checkpoint's features. AnnotationError: no annotation file, or
            one that names none of the videos.
    """
    rng = np.random.default_rng(seed)
    kinds = {name: kind_named(kind["name"], kind["width"]) for name, kind in checkpoint.features.items()}
    text = kinds.get("text") if queries is not None else None
    folder = open_folder(path, kinds["video"], kinds["audio"], text, max_clips=checkpoint.config.max_clips)
    asked = _asked(queries, set(folder.videos())) if queries is not None else {}
    samples = []
    for index, vid in enumerate(_spread(folder, asked)):
        video = folder.load(vid)
        if vid in asked:
            query = _real_query(asked[vid], checkpoint.vocabulary, folder)
        else:
            query = _drawn_query(checkpoint.config, checkpoint.vocabulary, WORDS[index % len(WORDS)], index, rng)
        samples.append(Sample(video, query))
    if all(sample.clips.audio is not None for sample in samples):
        # The graph for videos without sound has to be tried as well.
        samples += [replace(sample, clips=replace(sample.clips, audio=None)) for sample in samples[::_SILENCED]]
    return samples


def _asked(queries: Path, videos: set[str]) -> "dict[str, AnnotatedSample]":
    """Video -> the first of its queries. Raises AnnotationError."""
    from img_deploy.annotations import read_samples

    asked = {sample.vid: sample for sample in reversed(read_samples(queries)) if sample.vid in videos}
    if not asked:
        raise AnnotationError(f"{queries}: names none of the videos in the sample folder; give their annotations")
    return asked


def _real_query(sample: "AnnotatedSample", vocabulary: Vocabulary | None, folder: FeatureFolder) -> Query:
    content = folder.load_text(sample.qid) if vocabulary is None else vocabulary.encode(tokenize(sample.query))
    return Query(sample.query, sample.qid, content=content)


def _spread(folder: FeatureFolder, asked: "Mapping[str, AnnotatedSample]") -> list[str]:
    """Ids of at most ``FROM_FOLDER`` videos, evenly over their lengths; only those asked about, where any is."""
    videos = sorted(
        (vid for vid in folder.videos() if vid in asked or not asked), key=lambda vid: (folder.clips(vid), vid)
    )
    places = np.linspace(0, len(videos) - 1, min(FROM_FOLDER, len(videos)))
    return [videos[int(place)] for place in places.round()]


def _drawn_query(
    config: ModelConfig, vocabulary: Vocabulary | None, words: int, qid: int, rng: np.random.Generator
) -> Query:
    content: Any = rng.standard_normal((words, config.text_dim), np.float32)
    if vocabulary is not None:
        known = rng.integers(0, len(vocabulary), words) if len(vocabulary) else np.zeros(words, int)
        unknown = rng.random(words) < (_UNKNOWN_SHARE if len(vocabulary) else 1)
        content = vocabulary.encode(
            [UNKNOWN_WORD if new else vocabulary.words[row] for row, new in zip(known, unknown, strict=True)]
        )
    return Query("", qid, content=content)
