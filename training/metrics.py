"""Scores of a set of answers: R@1 at three IoUs and mean IoU, in percent, with intervals and by moment length.

Times are seconds. numpy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from img_deploy.errors import InputError

Floats: TypeAlias = npt.NDArray[np.float64]

THRESHOLDS = (0.3, 0.5, 0.7)
METRIC_NAMES = (*(f"R1@{threshold}" for threshold in THRESHOLDS), "mIoU")


@dataclass(frozen=True)
class Interval:
    """A metric in percent with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RatioBin:
    """Scores of the queries whose moment covers a share of its video in [low, high); the last bin holds 1 too."""

    low: float
    high: float
    queries: int
    metrics: dict[str, float] | None
    """None where the bin holds no query."""


def window_iou(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Floats:
    """IoU of windows, row by row: [n, 2] and [n, 2] seconds -> [n]. Disjoint, reversed or empty windows give 0.

    >>> window_iou([[0, 5], [3, 9]], [[0, 5], [4, 9]]).round(3).tolist()
    [1.0, 0.833]
    """
    a, b = _windows(predicted), _windows(truth)
    shared = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])
    joint = np.maximum(a[:, 1], b[:, 1]) - np.minimum(a[:, 0], b[:, 0])
    overlap = shared > 0
    return np.where(overlap, shared / np.where(overlap, joint, 1.0), 0.0)


def best_iou(predicted: Sequence[float], windows: npt.ArrayLike) -> float:
    """IoU of one predicted window with the annotated window it fits best (datasets with several per query)."""
    truth = _windows(windows)
    return float(window_iou(np.repeat([list(predicted[:2])], len(truth), axis=0), truth).max())


def summarise(ious: npt.ArrayLike) -> dict[str, float]:
    """R1@0.3, R1@0.5, R1@0.7 (IoU at or above) and mIoU of n queries, in percent.

    Raises:
        InputError: there is no query.
    """
    values = np.asarray(ious, np.float64)
    if not values.size:
        raise InputError("metrics: got no query, expected at least one; check the annotation file")
    return dict(zip(METRIC_NAMES, (100 * _columns(values).mean(axis=0)).tolist(), strict=True))


def bootstrap_intervals(
    ious: npt.ArrayLike, vids: Sequence[str], seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> dict[str, Interval]:
    """Percentile bootstrap over videos: queries of one video are not independent, so whole videos are redrawn.

    Args:
        ious: [n]. vids: video of each query.
        level: share of the resampled scores that the interval holds.
    Returns:
        Per metric name, its value and interval in percent.
    """
    values = np.asarray(ious, np.float64)
    if len(vids) != len(values):
        raise InputError(f"metrics: got {len(values)} scores and {len(vids)} video ids, expected as many")
    point = summarise(values)
    _, video = np.unique(np.asarray(vids), return_inverse=True)
    videos = int(video.max()) + 1
    columns = np.column_stack([_columns(values), np.ones(len(values))])
    sums = np.zeros((videos, columns.shape[1]))
    np.add.at(sums, video, columns)
    # How often each video is drawn, [resamples, videos].
    drawn = np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=resamples)
    totals = drawn @ sums
    scores = 100 * totals[:, :-1] / totals[:, -1:]
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: Interval(point[name], float(low[k]), float(high[k])) for k, name in enumerate(METRIC_NAMES)}


def by_moment_ratio(
    ious: npt.ArrayLike,
    starts: npt.ArrayLike,
    ends: npt.ArrayLike,
    durations: npt.ArrayLike,
    bins: int = 5,
) -> list[RatioBin]:
    """Scores by moment-to-video ratio (end - start) / duration, in equal bins of 0..1.

    Source: the paper's Figure 5 (five bins).
    """
    values = np.asarray(ious, np.float64)
    length = np.asarray(ends, np.float64) - np.asarray(starts, np.float64)
    ratio = np.clip(length / np.asarray(durations, np.float64), 0.0, 1.0)
    edges = np.arange(bins + 1) / bins
    # Compared with the edges themselves: ratio * bins can round across one.
    place = np.minimum(np.searchsorted(edges, ratio, side="right") - 1, bins - 1)
    groups = [values[place == k] for k in range(bins)]
    return [
        RatioBin(float(edges[k]), float(edges[k + 1]), len(group), summarise(group) if len(group) else None)
        for k, group in enumerate(groups)
    ]


def _columns(ious: Floats) -> Floats:
    """[n] -> [n, 4]: hit at each threshold, and the IoU itself."""
    return np.column_stack([*(ious >= threshold for threshold in THRESHOLDS), ious]).astype(np.float64)


def _windows(windows: npt.ArrayLike) -> Floats:
    array = np.asarray(windows, np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"windows: got shape {list(array.shape)}, expected [n, 2] (start, end in seconds)")
    return array
