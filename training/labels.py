"""From seconds to clips: the pair of clips that stands for a moment, and the clips of the saliency loss."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from img_deploy.errors import AnnotationError

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

TIE = 1e-12
"""IoUs closer than this are equal: annotated decimals such as 0.1 s are not exact in binary."""

# First and last clip of the best pair are the neighbours of the moment's two ends on the clip grid; one more on
# either side covers the rounding of the division that finds them.
_REACH = np.arange(-1, 3)


def label_moments(starts: npt.ArrayLike, ends: npt.ArrayLike, clips: npt.ArrayLike, durations: npt.ArrayLike) -> Ints:
    """The pair of clips (i, j), i <= j, whose interval [i d/L, (j+1) d/L] has the highest IoU with each moment.

    Ties go to the first pair in row order (lowest i, then lowest j). A moment that covers nothing of its video has
    IoU 0 with every pair and so gets (0, 0). The cost does not depend on the number of clips: for a fixed last
    clip the IoU falls on both sides of the moment's start (and likewise for its end), so only neighbours of the two
    ends can win.

    Args:
        starts, ends: [n] seconds, cut to the video.
        clips: [n] clips L of the video. durations: [n] seconds.
    Returns:
        [n, 2] int64, inclusive.
    Raises:
        AnnotationError: a duration or a number of clips is not positive, or a time is not finite.

    >>> label_moments([24.3], [30.4], clips=[16], durations=[30.96]).tolist()
    [[12, 15]]
    """
    start, end, duration = (np.atleast_1d(np.asarray(x, np.float64)) for x in (starts, ends, durations))
    count = np.atleast_1d(np.asarray(clips, np.int64))
    _check(start, end, count, duration)
    first = _near(start, count, duration)  # [n, 4]
    last = _near(end, count, duration) - 1
    # Every pair of candidates, [n, 16]; rows ascend in i, then j, so the first maximum is the first in row order.
    i = np.repeat(first, len(_REACH), axis=1)
    j = np.tile(last, (1, len(_REACH)))
    scale = duration / count
    low, high = i * scale[:, None], (j + 1) * scale[:, None]
    shared = np.minimum(high, end[:, None]) - np.maximum(low, start[:, None])
    joint = np.maximum(high, end[:, None]) - np.minimum(low, start[:, None])
    impossible = (i < 0) | (j < i) | (j >= count[:, None])
    iou = np.where(impossible, -1.0, np.maximum(shared, 0.0) / np.where(impossible, 1.0, joint))
    best = (iou >= iou.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
    rows = np.arange(len(best))
    pairs = np.stack([i[rows, best], j[rows, best]], axis=1)
    pairs[iou[rows, best] <= TIE] = 0
    return pairs


def sample_saliency_clips(
    starts: npt.ArrayLike, ends: npt.ArrayLike, clips: npt.ArrayLike, seed: int | Sequence[int]
) -> tuple[Ints, Ints]:
    """Two clips of each moment and two real clips outside it, drawn without replacement.

    A moment of one clip gives that clip twice; fewer than two clips outside give clip 0 twice.

    Args:
        starts, ends: [n] first and last clip of the moments, inclusive. clips: [n] real clips of the videos.
        seed: seed of the draw; a sequence such as (run seed, epoch, query) makes it independent of the batches.
    Returns:
        positives, negatives: [n, 2] int64 each.
    """
    start, end, count = (np.atleast_1d(np.asarray(x, np.int64)) for x in (starts, ends, clips))
    draws = np.random.default_rng(seed).random((len(start), 4))
    inside = end - start + 1
    positives = start[:, None] + _two_of(inside, draws[:, :2])
    outside = _two_of(count - inside, draws[:, 2:])
    negatives = outside + np.where(outside >= start[:, None], inside[:, None], 0)
    negatives[count - inside < 2] = 0
    return positives, negatives


def _two_of(sizes: Ints, draws: Floats) -> Ints:
    """Two distinct members of range(size) from two uniform draws in [0, 1); 0 twice where there are not two."""
    first = (draws[:, 0] * sizes).astype(np.int64)
    second = (draws[:, 1] * (sizes - 1)).astype(np.int64)
    second += second >= first
    return np.where((sizes < 2)[:, None], 0, np.stack([first, second], axis=1))


def _near(times: Floats, clips: Ints, durations: Floats) -> Ints:
    """Grid points around each time, [n, 4], all inside 0..L (a time outside the video is as good as its edge)."""
    position = np.clip(np.floor(times / durations * clips), 0, clips).astype(np.int64)
    return position[:, None] + _REACH


def _check(start: Floats, end: Floats, clips: Ints, duration: Floats) -> None:
    if not (np.isfinite(duration) & (duration > 0)).all():
        bad = duration[~(np.isfinite(duration) & (duration > 0))][0]
        raise AnnotationError(f"duration: got {bad:g} seconds, expected more than 0; correct the annotations")
    if (clips < 1).any():
        raise AnnotationError(f"clips: got {clips.min()}, expected at least 1; leave out the empty video")
    if not (np.isfinite(start) & np.isfinite(end)).all():
        raise AnnotationError("moment: got a start or end that is not finite; correct the annotations")
