"""The three stages of an answer: encode videos, encode queries, ground pairs.

Each takes items of any lengths, runs a graph on batches of similar length and gives a result per item, in order. Where
the network has no finite result for an item, the error that says so stands in its place: the others are answered.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import FeatureError, ImgDeployError
from img_deploy.features.prepare import VideoFeatures
from img_deploy.model.graphs import PAIR
from img_deploy.runtime.backends.protocol import (
    BEST_SCORE,
    BEST_SPAN,
    FAULTS,
    FEATURE_RANGE,
    Feeds,
    Outputs,
    Values,
    on_host,
)
from img_deploy.runtime.batching import bucket_batches
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, Query
from img_deploy.runtime.results import Answer, Head, moments_of
from img_deploy.runtime.spans import ScoredSpan, check_options, decode_spans
from img_deploy.text.vocabulary import EncodedWords

Run = Callable[[str, Feeds], Outputs]
Pair = tuple[EncodedVideo, EncodedQuery, float | None]
"""The float is the video's duration in seconds."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    items: Sequence[Item],
    length: Callable[[Item], int],
    batch_size: int,
    run: Callable[[list[Item]], list[Result]],
) -> list[Result]:
    """What ``run`` makes of each item, given to it in batches of similar length; in the items' order."""
    if 0 < len(items) <= batch_size:
        return run(list(items))
    results: dict[int, Result] = {}
    for rows in bucket_batches([length(item) for item in items], batch_size):
        results.update(zip(rows, run([items[row] for row in rows]), strict=True))
    return [results[row] for row in range(len(items))]


def whole(results: Iterable[Result | ImgDeployError]) -> list[Result]:
    """The results; raises the first that is an error."""
    found = []
    for result in results:
        if isinstance(result, ImgDeployError):
            raise result
        found.append(result)
    return found


def encode_videos(
    run: Run, items: Sequence[VideoFeatures], audio_width: int, batch_size: int, network: str
) -> list[EncodedVideo | FeatureError]:
    """Videos as the network takes them -> their clips. ``network`` names it in what it makes."""
    return in_batches(
        items, lambda item: len(item.video), batch_size, partial(_encode_videos, run, audio_width, network)
    )


def _encode_videos(
    run: Run, audio_width: int, network: str, batch: list[VideoFeatures]
) -> list[EncodedVideo | FeatureError]:
    lengths = [len(item.video) for item in batch]
    out = run("video_encoder", _video_feeds(audio_width, batch, lengths))
    streams = "visual_clips", "audio_clips"
    visual, audio = ([_of_sample(out[name], *row) for row in enumerate(lengths)] for name in streams)
    # What silence was encoded to is of no use: the visual head answers.
    sounds = [None if item.audio is None else sound for item, sound in zip(batch, audio, strict=True)]
    encoded: list[EncodedVideo | FeatureError] = []
    for item, clips, sound, good in zip(batch, visual, sounds, _finite(out, streams, lengths), strict=True):
        made = EncodedVideo(item.vid, clips, sound, item.source_clips, network)
        encoded.append(made if good else _no_result(item.vid or "the video"))
    return encoded


def _video_feeds(audio_width: int, batch: list[VideoFeatures], lengths: list[int]) -> dict[str, Any]:
    return {
        "video": [item.video for item in batch],
        "audio": [_silence(len(item.video), audio_width) if item.audio is None else item.audio for item in batch],
        "clip_mask": _mask(*lengths),
    }


def encode_queries(
    run: Run, items: Sequence[Query], batch_size: int, network: str
) -> list[EncodedQuery | FeatureError]:
    """Queries whose content is looked up -> their words. ``network`` names it in what it makes."""
    return in_batches(items, words_of, batch_size, partial(_encode_queries, run, network))


def words_of(query: Query) -> int:
    """N of a query whose content is looked up."""
    content = query.content
    assert content is not None
    return len(content.word_vectors if isinstance(content, EncodedWords) else content)


def _encode_queries(run: Run, network: str, batch: list[Query]) -> list[EncodedQuery | FeatureError]:
    lengths = [words_of(item) for item in batch]
    out = run("query_encoder", _query_feeds(batch, lengths))
    streams = "visual_words", "audio_words"
    visual, audio = ([_of_sample(out[name], *row) for row in enumerate(lengths)] for name in streams)
    encoded: list[EncodedQuery | FeatureError] = []
    for item, of_visual, of_audio, good in zip(batch, visual, audio, _finite(out, streams, lengths), strict=True):
        known = item.content if isinstance(item.content, EncodedWords) else None
        facts = (known.unknown, known.all_unknown, known.cut) if known else ((), False, 0)
        made = EncodedQuery(item.sentence, item.qid, of_visual, of_audio, *facts, network)
        encoded.append(made if good else _no_result(item.name))
    return encoded


def _query_feeds(batch: list[Query], lengths: list[int]) -> dict[str, Any]:
    words = [item.content for item in batch if isinstance(item.content, EncodedWords)]
    if not words:
        return {"text": [item.content for item in batch], "word_mask": _mask(*lengths)}
    return {
        "word_vectors": [one.word_vectors for one in words],
        "word_unknown": [one.word_unknown for one in words],
        "char_ids": [one.char_ids for one in words],
        "word_mask": _mask(*lengths),
    }


def ground_pairs(
    run: Run, pairs: Sequence[Pair], top_k: int, nms: float, batch_size: int
) -> list[Answer | FeatureError]:
    """The fused head answers videos with sound, the visual head the others.

    Raises InputError where ``top_k`` or ``nms`` is out of range.
    """
    check_options(top_k, nms)
    answers: dict[int, Answer | FeatureError] = {}
    for graph in ("grounder", "visual_grounder"):
        rows = [row for row, (video, *_) in enumerate(pairs) if (video.audio is None) is (graph != "grounder")]
        if rows:
            ground = partial(_ground, run, graph, top_k, nms)
            found = in_batches([pairs[row] for row in rows], lambda pair: pair[0].clips, batch_size, ground)
            answers.update(zip(rows, found, strict=True))
    return [answers[row] for row in range(len(pairs))]


def _ground(run: Run, graph: str, top_k: int, nms: float, batch: list[Pair]) -> list[Answer | FeatureError]:
    clips = [video.clips for video, _, _ in batch]
    feeds: dict[str, Any] = {
        "visual_clips": [video.visual for video, _, _ in batch],
        "visual_words": [query.visual for _, query, _ in batch],
        "clip_mask": _mask(*clips),
        "word_mask": _mask(*[query.words for _, query, _ in batch]),
    }
    if graph == "grounder":
        feeds["audio_clips"] = [video.audio for video, _, _ in batch]
        feeds["audio_words"] = [query.audio for _, query, _ in batch]
    shown = [_Shown(video.vid, video.clips, query.query, query.qid, duration) for video, query, duration in batch]
    return _answers(run(graph, feeds), shown, top_k, nms)


def answer_pair(
    run: Run, video: VideoFeatures, query: Query, duration: float | None, top_k: int, nms: float
) -> tuple[Answer | FeatureError, list[float]]:
    """The answer to one query, its content looked up, on one video with sound, in a run of ``PAIR``.

    Returns:
        It, and the least and greatest number of the video, then of its sound.

    Raises:
        InputError: ``top_k`` or ``nms`` is out of range, and not all of the answer is decoded on a device.
    """
    assert video.audio is not None
    clips = len(video.video)
    out = run(PAIR, {**_video_feeds(0, [video], [clips]), **_query_feeds([query], [words_of(query)])})
    shown = _Shown(video.vid, clips, query.sentence, query.qid, duration)
    return _answers(out, [shown], top_k, nms)[0], out[FEATURE_RANGE][0].tolist()


_SALIENCY = ("saliency", "saliency_visual", "saliency_audio")
_SHOWN = ("start_logits", "end_logits", "importance", *_SALIENCY)
"""Outputs that an answer is made of."""


class _Shown(NamedTuple):
    """What an answer shows of its pair."""

    vid: str
    clips: int
    query: str
    qid: int | None
    duration: float | None

    def __str__(self) -> str:
        return f"{self.vid or 'the video'}, query {repr(self.query) if self.query else self.qid}"


def _answers(out: Outputs, batch: list[_Shown], top_k: int, nms: float) -> list[Answer | FeatureError]:
    clips = [pair.clips for pair in batch]
    good = _with_result(out, clips)
    spans = iter(_spans(out, good, clips, top_k, nms))
    saliencies = [out[name] for name in _SALIENCY if name in out]
    importances = out["importance"].tolist() if "importance" in out else None
    answers: list[Answer | FeatureError] = []
    for row, pair in enumerate(batch):
        if row not in good:
            answers.append(_no_result(str(pair)))
            continue
        vid, length, query, qid, duration = pair
        saliency = [_of_sample(values, row, length) for values in saliencies]
        head: Head = "visual" if importances is None else "fused"
        importance = None if importances is None else importances[row]
        moments = moments_of(next(spans), length, duration)
        answers.append(Answer(vid, query, qid, head, length, duration, importance, moments, *saliency))
    return answers


def _spans(out: Outputs, rows: Sequence[int], clips: list[int], top_k: int, nms: float) -> list[list[ScoredSpan]]:
    """The best spans of these rows of the batch."""
    if top_k == 1 and BEST_SPAN in out:
        ends, scores = out[BEST_SPAN].tolist(), out[BEST_SCORE].tolist()
        return [[(*ends[row], *scores[row])] for row in rows]
    start, end = (out[name] if len(rows) == len(clips) else out[name][rows] for name in ("start_logits", "end_logits"))
    return decode_spans(start, end, [clips[row] for row in rows], top_k, nms)


def _of_sample(values: Values, row: int, length: int) -> Values:
    """What is real of a sample of [B, L, ...]; a copy, where one sample would hold the memory of others."""
    if len(values) == 1:
        return values[0]
    one = values[row, :length]
    return one.copy() if isinstance(one, np.ndarray) else one.clone()


def _with_result(out: Outputs, clips: list[int]) -> Sequence[int]:
    """The rows of which everything that an answer is made of is a number. A logit may be -inf, a masked one in half
    precision."""
    rows, faults = range(len(clips)), out.get(FAULTS)
    if faults is not None and not any(faults.tolist()):
        return rows
    names = [name for name in _SHOWN if name in out]
    if faults is None and np.isfinite(np.concatenate([out[name].ravel() for name in names])).all():
        return rows

    def real(name: str, row: int) -> NDArray[Any]:
        values: NDArray[Any] = out[name][row, : clips[row]] if out[name].ndim > 1 else out[name][row]
        return np.maximum(values, 0) if "logits" in name else values

    return [row for row in rows if all(np.isfinite(real(name, row)).all() for name in names)]


@lru_cache(maxsize=256)
def _mask(*lengths: int) -> NDArray[np.bool_]:
    """[B, longest], True at real clips or words."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    mask.flags.writeable = False
    return mask


def _silence(clips: int, width: int) -> NDArray[np.float32]:
    """[clips, width] of zeros, which take no memory."""
    return np.broadcast_to(np.float32(0), (clips, width))


def _finite(out: Outputs, streams: tuple[str, str], lengths: list[int]) -> list[bool]:
    """Whether what each sample was encoded to is numbers alone."""
    faults = out.get(FAULTS)
    if faults is None:
        visual, audio = (np.isfinite(on_host(out[name])).all(axis=2) for name in streams)
        faults = ~(visual & audio)  # [B, L]
    if not np.count_nonzero(faults):
        return [True] * len(lengths)
    return [not faults[row, :length].any() for row, length in enumerate(lengths)]


def _no_result(name: str) -> FeatureError:
    return FeatureError(
        f"{name}: got features too large for the network (it has no finite result for them), expected the extractor's "
        "own scale; extract them again, or take fp32 where this is another precision"
    )
