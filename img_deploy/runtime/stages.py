"""The three stages of an answer: encode videos, encode queries, ground pairs.

Each takes items of any lengths, runs a graph on batches of similar length and gives a result per item, in order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import FeatureError, InputError
from img_deploy.features.resample import Floats
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.batching import bucket_batches, pad_stack
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, PreparedQuery
from img_deploy.runtime.results import Answer, moments_of
from img_deploy.runtime.spans import decode_spans
from img_deploy.text.vocabulary import EncodedWords

Run = Callable[[str, Feeds], Outputs]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Clips:
    """One video on its way to the encoder, L clips long."""

    name: str
    """What errors call it."""
    vid: str
    video: Floats
    """[L, Dv]"""
    audio: Floats | None
    """[L, Da]"""
    source_clips: int


@dataclass(frozen=True, eq=False)
class Pair:
    """One query on one video on its way to the grounder; ``duration`` in seconds."""

    video: EncodedVideo
    query: EncodedQuery
    duration: float | None


def in_batches(
    items: Sequence[Item],
    length: Callable[[Item], int],
    batch_size: int,
    run: Callable[[list[Item]], list[Result]],
) -> list[Result]:
    """What ``run`` makes of each item, given to it in batches of similar length; in the items' order."""
    if batch_size < 1:
        raise InputError(f"batch size: got {batch_size}, expected at least 1")
    results: dict[int, Result] = {}
    for rows in bucket_batches([length(item) for item in items], batch_size):
        results.update(zip(rows, run([items[row] for row in rows]), strict=True))
    return [results[row] for row in range(len(items))]


def encode_videos(run: Run, items: Sequence[Clips], audio_width: int, batch_size: int) -> list[EncodedVideo]:
    """Raises FeatureError where the network has no finite values for a video."""
    encode = partial(_encode_clips, run, audio_width)
    return in_batches(items, lambda item: len(item.video), batch_size, encode)


def _encode_clips(run: Run, audio_width: int, batch: list[Clips]) -> list[EncodedVideo]:
    silence = np.zeros((0, audio_width), np.float32)
    video, mask = pad_stack([item.video for item in batch])  # [B, L, Dv], [B, L]
    sounds = [silence if item.audio is None else item.audio for item in batch]
    audio, _ = pad_stack(sounds, length=mask.shape[1])  # [B, L, Da]
    out = run("video_encoder", {"video": video, "audio": audio, "clip_mask": mask})
    encoded = []
    for row, item in enumerate(batch):
        clips = len(item.video)
        visual = _own(out["visual_clips"][row, :clips], item.name)
        # What silence was encoded to is of no use: the visual head answers.
        sound = None if item.audio is None else _own(out["audio_clips"][row, :clips], item.name)
        encoded.append(EncodedVideo(item.vid, visual, sound, item.source_clips))
    return encoded


def encode_queries(run: Run, items: Sequence[PreparedQuery], batch_size: int) -> list[EncodedQuery]:
    """Raises FeatureError where the network has no finite values for a query."""
    return in_batches(items, lambda item: item.words, batch_size, partial(_encode_words, run))


def _encode_words(run: Run, batch: list[PreparedQuery]) -> list[EncodedQuery]:
    contents = [item.content for item in batch]
    words = [one for one in contents if isinstance(one, EncodedWords)]
    if words:
        vectors, mask = pad_stack([one.word_vectors for one in words])  # [B, N, 300], [B, N]
        unknown, _ = pad_stack([one.word_unknown for one in words])  # [B, N]
        width = max(one.char_ids.shape[1] for one in words)
        chars, _ = pad_stack([one.char_ids for one in words], width=width)  # [B, N, W]
        feeds = {"word_vectors": vectors, "word_unknown": unknown, "char_ids": chars, "word_mask": mask}
    else:
        tokens, mask = pad_stack([one for one in contents if isinstance(one, np.ndarray)])  # [B, N, Dt]
        feeds = {"text": tokens, "word_mask": mask}
    out = run("query_encoder", feeds)
    encoded = []
    for row, item in enumerate(batch):
        visual = _own(out["visual_words"][row, : item.words], item.name)
        audio = _own(out["audio_words"][row, : item.words], item.name)
        encoded.append(EncodedQuery(item.query, item.qid, visual, audio, item.unknown, item.all_unknown))
    return encoded


def ground_pairs(run: Run, pairs: Sequence[Pair], top_k: int, nms: float, batch_size: int) -> list[Answer]:
    """The fused head answers videos with sound, the visual head the others.

    Raises InputError where ``top_k`` or ``nms`` is out of range.
    """
    decode_spans(np.zeros((0, 1)), np.zeros((0, 1)), [], top_k, nms)  # refuses bad options before any work
    answers: dict[int, Answer] = {}
    for ground in (_ground_fused, _ground_visual):
        fused = ground is _ground_fused
        rows = [row for row, pair in enumerate(pairs) if (pair.video.audio_clips is not None) is fused]
        batch = partial(ground, run, top_k, nms)
        found = in_batches([pairs[row] for row in rows], lambda pair: pair.video.clips, batch_size, batch)
        answers.update(zip(rows, found, strict=True))
    return [answers[row] for row in range(len(pairs))]


def _ground_fused(run: Run, top_k: int, nms: float, batch: list[Pair]) -> list[Answer]:
    visual, clip_mask = pad_stack([pair.video.visual_clips for pair in batch])  # [B, L, D], [B, L]
    audio, _ = pad_stack([pair.video.audio_clips for pair in batch if pair.video.audio_clips is not None])
    visual_words, word_mask = pad_stack([pair.query.visual_words for pair in batch])  # [B, N, D], [B, N]
    audio_words, _ = pad_stack([pair.query.audio_words for pair in batch])
    feeds = {
        "visual_clips": visual,
        "audio_clips": audio,
        "visual_words": visual_words,
        "audio_words": audio_words,
        "clip_mask": clip_mask,
        "word_mask": word_mask,
    }
    return _answers(run("grounder", feeds), batch, top_k, nms)


def _ground_visual(run: Run, top_k: int, nms: float, batch: list[Pair]) -> list[Answer]:
    visual, clip_mask = pad_stack([pair.video.visual_clips for pair in batch])
    words, word_mask = pad_stack([pair.query.visual_words for pair in batch])
    feeds = {"visual_clips": visual, "visual_words": words, "clip_mask": clip_mask, "word_mask": word_mask}
    return _answers(run("visual_grounder", feeds), batch, top_k, nms)


def _answers(out: Outputs, batch: list[Pair], top_k: int, nms: float) -> list[Answer]:
    clips = [pair.video.clips for pair in batch]
    spans = decode_spans(out["start_logits"], out["end_logits"], clips, top_k, nms)
    fused = "importance" in out

    def per_clip(name: str, row: int) -> NDArray[np.float32]:
        return out[name][row, : clips[row]].astype(np.float32)

    return [
        Answer(
            vid=pair.video.vid,
            query=pair.query.query,
            qid=pair.query.qid,
            head="fused" if fused else "visual",
            clips=clips[row],
            duration=pair.duration,
            importance=float(out["importance"][row]) if fused else None,
            moments=moments_of(spans[row], clips[row], pair.duration),
            saliency=per_clip("saliency", row),
            saliency_visual=per_clip("saliency_visual", row) if fused else None,
            saliency_audio=per_clip("saliency_audio", row) if fused else None,
        )
        for row, pair in enumerate(batch)
    ]


def _own(values: NDArray[np.floating], name: str) -> NDArray[np.floating]:
    """A copy, so that one video does not hold the memory of its batch; finite, so that it has an answer."""
    if not np.isfinite(values).all():
        raise FeatureError(
            f"{name}: got features too large for the network (it has no finite result for them), expected the "
            "extractor's own scale; extract them again"
        )
    return values.copy()
