"""From start and end logits to moments: the best spans of each sample, and their place in the video.

A span (i, j) is a pair of clips, both inclusive, i <= j.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from img_deploy.errors import BackendError, InputError

DEFAULT_NMS = 0.5
"""Overlap (IoU) above which a moment repeats a better one."""

Span = tuple[int, int]
ScoredSpan = tuple[int, int, float]
"""First clip, last clip, score."""

_LOWEST = -1e30  # the network's own value of a masked clip; -inf would make sums of two rows NaN


_SIDES = np.array([[0], [1]])


def decode_spans(
    start_logits: ArrayLike,
    end_logits: ArrayLike,
    clips: ArrayLike,
    top_k: int = 1,
    nms: float = DEFAULT_NMS,
) -> list[list[ScoredSpan]]:
    """Best spans of each sample, best first.

    Rank 1 is the argmax over i <= j of softmax(start)_i * softmax(end)_j on the sample's own clips (ties: the
    first in row order), whatever ``top_k`` and ``nms`` are. Each further rank is the best span whose IoU with
    every span before it is at most ``nms``, so fewer than ``top_k`` spans come back where none is left. The
    score is that product of probabilities.

    >>> start, end = [[4.0, 0.0, 3.0, 9.0]], [[0.0, 4.0, 3.0, 9.0]]
    >>> [(i, j) for i, j, score in decode_spans(start, end, [3], top_k=3, nms=0.5)[0]]
    [(0, 1), (2, 2), (0, 0)]

    Args:
        start_logits, end_logits: [B, L]; values past a sample's clips are ignored.
        clips: [B], clips of each sample, 1 to L.
        top_k: most spans per sample.
        nms: 0 (no overlap at all) to 1 (only the very same span is a repetition).

    Raises:
        InputError: ``top_k`` or ``nms`` is out of range.
        BackendError: a logit is NaN or +inf.
        ValueError: the shapes do not fit, or ``clips`` is out of range.

    Source: arXiv 2508.04273, inference; temporal NMS is not part of the paper.
    """
    check_options(top_k, nms)
    counts, shape = np.asarray(clips, np.int64).tolist(), np.shape(start_logits)
    if len(shape) != 2 or np.shape(end_logits) != shape or len(counts) != shape[0]:
        raise ValueError(f"got logits {shape} and {np.shape(end_logits)} and {len(counts)} clips")
    if not counts:
        return []
    least, most = min(counts), max(counts)
    if not 1 <= least <= most <= shape[1]:
        raise ValueError(f"got {least} to {most} clips, expected 1 to {shape[1]}")
    logits = np.array((start_logits, end_logits), np.float64)  # [2, B, L]
    np.maximum(logits, _LOWEST, out=logits)
    if least < shape[1]:
        logits[:, np.arange(shape[1]) >= np.array(counts)[:, None]] = -np.inf
    highest = logits.max(axis=2, keepdims=True)  # [2, B, 1]
    if not highest.max() < np.inf:
        raise _no_number(logits)
    if top_k == 1:
        first, last = _best(logits[0], logits[1])
        spans = [[span] for span in zip(first.tolist(), last.tolist(), strict=True)]
        row = np.arange(len(counts))
    else:
        spans = [_best_apart(logits[0, b, :n], logits[1, b, :n], top_k, nms) for b, n in enumerate(counts)]
        row, first, last = np.array([(b, i, j) for b, own in enumerate(spans) for i, j in own]).T
    logits -= highest
    total = np.log(np.exp(logits).sum(axis=2))  # [2, B], of the softmax
    chosen = logits[_SIDES, row, np.array((first, last))] - total[:, row]  # [2, spans]
    scores = iter(np.exp(chosen[0] + chosen[1]).tolist())
    return [[(i, j, next(scores)) for i, j in own] for own in spans]


def check_options(top_k: int, nms: float) -> None:
    """Raises InputError where an option of :func:`decode_spans` is out of range."""
    if top_k < 1:
        raise InputError(f"top-k: got {top_k}, expected at least 1")
    if not 0 <= nms <= 1:
        raise InputError(f"nms: got {nms}, expected an IoU from 0 to 1")


def span_to_window(span: Span, clips: int, duration: float) -> tuple[float, float]:
    """Start and end of a span in seconds: i * d / L and (j + 1) * d / L.

    >>> span_to_window((2, 3), clips=8, duration=30.0)  # 8 clips of 3.75 seconds
    (7.5, 15.0)

    Raises InputError where the duration is not a positive number of seconds.
    """
    if not 0 < duration < float("inf"):
        raise InputError(f"duration: got {duration} seconds, expected more than 0")
    return span[0] * duration / clips, min((span[1] + 1) * duration / clips, duration)


def _no_number(logits: NDArray[np.float64]) -> BackendError:
    """The error of logits [2, B, L] that hold NaN or +inf."""
    which, b, clip = np.argwhere(~(logits < np.inf))[0]
    name, value = ("start_logits", "end_logits")[which], logits[which, b, clip]
    return BackendError(f"{name}: got {value} at clip {clip} of sample {b}, expected finite numbers")


# Both searches below rank by the sum of the two logits: the log of the product of probabilities, up to a
# constant of the sample. It does not underflow, and keeps apart spans whose products round to one number.


def _best(start: NDArray[np.float64], end: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last clip [B] of the best span of each sample [B, L], without a table of all L * L spans."""
    best_end = np.maximum.accumulate(end[:, ::-1], axis=1)[:, ::-1]  # [B, L]: over j >= i
    first = (start + best_end).argmax(axis=1)  # [B]
    sums = start[np.arange(len(first)), first, None] + end  # [B, L]: of the spans that begin there
    sums[np.arange(end.shape[1]) < first[:, None]] = -np.inf
    return first, sums.argmax(axis=1)


def _best_apart(start: NDArray[np.float64], end: NDArray[np.float64], top_k: int, nms: float) -> list[Span]:
    """Greedy temporal NMS over every span of one sample [L]."""
    first, last = _all_spans(len(start))
    total = start[first] + end[last]
    kept: list[Span] = []
    while len(kept) < top_k:
        best = int(total.argmax())
        if total[best] == -np.inf:
            break
        i, j = int(first[best]), int(last[best])
        kept.append((i, j))
        # Clips overlap as the intervals [i, j + 1] do.
        shared = np.minimum(last, j) - np.maximum(first, i) + 1
        union = (last - first + 1) + (j - i + 1) - shared
        total[shared / union > nms] = -np.inf
        total[best] = -np.inf  # at nms = 1 its overlap with itself does not exceed the limit
    return kept


@lru_cache(maxsize=128)
def _all_spans(clips: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last clip of each of the L * (L + 1) / 2 spans, in row order."""
    first, last = np.triu_indices(clips)
    return first, last
