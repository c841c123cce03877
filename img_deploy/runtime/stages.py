"""The three stages of an answer: encode videos, encode queries, ground pairs.

Each takes items of any lengths, runs a graph on batches of similar length and gives a result per item, in order. Where
the network has no finite result for an item, the error that says so stands in its place: the others are answered.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import FeatureError, ImgDeployError
from img_deploy.features.prepare import VideoFeatures
from img_deploy.runtime.backends.protocol import Feeds, Outputs
from img_deploy.runtime.batching import bucket_batches, pad_stack
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, Query
from img_deploy.runtime.results import Answer, moments_of
from img_deploy.runtime.spans import check_options, decode_spans
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
    silence = np.zeros((0, audio_width), np.float32)
    video, mask = pad_stack([item.video for item in batch])  # [B, L, Dv], [B, L]
    sounds = [silence if item.audio is None else item.audio for item in batch]
    audio, _ = pad_stack(sounds, length=mask.shape[1])  # [B, L, Da]
    out = run("video_encoder", {"video": video, "audio": audio, "clip_mask": mask})
    encoded: list[EncodedVideo | FeatureError] = []
    for row, item in enumerate(batch):
        # Copies: one video must not hold the memory of its batch.
        visual = out["visual_clips"][row, : len(item.video)].copy()
        # What silence was encoded to is of no use: the visual head answers.
        sound = None if item.audio is None else out["audio_clips"][row, : len(item.video)].copy()
        if _finite(visual, sound):
            encoded.append(EncodedVideo(item.vid, visual, sound, item.source_clips, network))
        else:
            encoded.append(_no_result(item.vid or "the video"))
    return encoded


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
    words = [item.content for item in batch if isinstance(item.content, EncodedWords)]
    if words:
        vectors, mask = pad_stack([one.word_vectors for one in words])  # [B, N, 300], [B, N]
        unknown, _ = pad_stack([one.word_unknown for one in words])  # [B, N]
        width = max(one.char_ids.shape[1] for one in words)
        chars, _ = pad_stack([one.char_ids for one in words], width=width)  # [B, N, W]
        feeds = {"word_vectors": vectors, "word_unknown": unknown, "char_ids": chars, "word_mask": mask}
    else:
        tokens, mask = pad_stack([item.content for item in batch if isinstance(item.content, np.ndarray)])
        feeds = {"text": tokens, "word_mask": mask}  # [B, N, Dt], [B, N]
    out = run("query_encoder", feeds)
    encoded: list[EncodedQuery | FeatureError] = []
    for row, item in enumerate(batch):
        visual, audio = (out[name][row, : words_of(item)].copy() for name in ("visual_words", "audio_words"))
        if not _finite(visual, audio):
            encoded.append(_no_result(item.name))
            continue
        known = item.content if isinstance(item.content, EncodedWords) else None
        facts = (known.unknown, known.all_unknown, known.cut) if known else ((), False, 0)
        encoded.append(EncodedQuery(item.sentence, item.qid, visual, audio, *facts, network=network))
    return encoded


def ground_pairs(
    run: Run, pairs: Sequence[Pair], top_k: int, nms: float, batch_size: int
) -> list[Answer | FeatureError]:
    """The fused head answers videos with sound, the visual head the others.

    Raises InputError where ``top_k`` or ``nms`` is out of range.
    """
    check_options(top_k, nms)
    answers: dict[int, Answer | FeatureError] = {}
    for graph in ("grounder", "visual_grounder"):
        rows = [row for row, (video, *_) in enumerate(pairs) if (video.audio_clips is None) is (graph != "grounder")]
        ground = partial(_ground, run, graph, top_k, nms)
        found = in_batches([pairs[row] for row in rows], lambda pair: pair[0].clips, batch_size, ground)
        answers.update(zip(rows, found, strict=True))
    return [answers[row] for row in range(len(pairs))]


def _ground(run: Run, graph: str, top_k: int, nms: float, batch: list[Pair]) -> list[Answer | FeatureError]:
    visual, clip_mask = pad_stack([video.visual_clips for video, _, _ in batch])  # [B, L, D], [B, L]
    visual_words, word_mask = pad_stack([query.visual_words for _, query, _ in batch])  # [B, N, D], [B, N]
    feeds = {"visual_clips": visual, "visual_words": visual_words, "clip_mask": clip_mask, "word_mask": word_mask}
    if graph == "grounder":
        feeds["audio_clips"], _ = pad_stack([v.audio_clips for v, _, _ in batch if v.audio_clips is not None])
        feeds["audio_words"], _ = pad_stack([query.audio_words for _, query, _ in batch])
    out = run(graph, feeds)
    good = [row for row, (video, _, _) in enumerate(batch) if _has_result(out, row, video.clips)]
    starts, ends = out["start_logits"][good], out["end_logits"][good]
    spans = dict(zip(good, decode_spans(starts, ends, [batch[row][0].clips for row in good], top_k, nms), strict=True))
    return [
        _answer(out, row, pair, spans[row])
        if row in spans
        else _no_result(f"{pair[0].vid or 'the video'}, {_name(pair)}")
        for row, pair in enumerate(batch)
    ]


def _answer(out: Outputs, row: int, pair: Pair, spans: list[tuple[int, int, float]]) -> Answer:
    video, query, duration = pair
    fused = "importance" in out

    def per_clip(name: str) -> NDArray[np.float32]:
        return out[name][row, : video.clips].astype(np.float32)

    return Answer(
        vid=video.vid,
        query=query.query,
        qid=query.qid,
        head="fused" if fused else "visual",
        clips=video.clips,
        duration=duration,
        importance=float(out["importance"][row]) if fused else None,
        moments=moments_of(spans, video.clips, duration),
        saliency=per_clip("saliency"),
        saliency_visual=per_clip("saliency_visual") if fused else None,
        saliency_audio=per_clip("saliency_audio") if fused else None,
    )


def _has_result(out: Outputs, row: int, clips: int) -> bool:
    """Whether everything that an answer is made of is a number. A logit may be -inf, a masked one in half precision."""
    logits = (out[name][row, :clips] for name in ("start_logits", "end_logits"))
    rest = (
        values[row] if values.ndim == 1 else values[row, :clips] for name, values in out.items() if "logits" not in name
    )
    return all((one < np.inf).all() for one in logits) and _finite(*rest)


def _finite(*arrays: NDArray[np.floating] | None) -> bool:
    return all(array is None or np.isfinite(array).all() for array in arrays)


def _name(pair: Pair) -> str:
    _, query, _ = pair
    return f"query {query.query!r}" if query.query else f"query {query.qid}"


def _no_result(name: str) -> FeatureError:
    return FeatureError(
        f"{name}: got features too large for the network (it has no finite result for them), expected the extractor's "
        "own scale; extract them again, or take fp32 where this is another precision"
    )
