"""Bringing feature sequences to a number of clips: down-sampling of videos, alignment of audio to them."""

import numpy as np
import numpy.typing as npt

from img_deploy.errors import FeatureError

Floats = npt.NDArray[np.float32]


def boundaries(source: int, clips: int) -> npt.NDArray[np.int64]:
    """First source row of each of ``clips`` clips, and one boundary more ([clips + 1], rising).

    Clip i is the mean of the rows b_i .. b_{i+1}-1, or row b_i where that is empty. Float64, rounded half to
    even, in this order of operations: another order moves a boundary here and there.
    """
    edges = np.round(np.arange(clips + 1, dtype=np.float64) / clips * source)
    return np.minimum(edges.astype(np.int64), source - 1)


def downsample(features: npt.NDArray[np.generic], limit: int) -> Floats:
    """At most ``limit`` clips of a longer sequence; a shorter one is left as it is.

    Args:
        features: [T, D], any real dtype, T >= 1. May be memory-mapped: only the rows of one clip are held.
        limit: longest result in clips, at least 1.

    Returns:
        [min(T, limit), D] float32.

    Raises:
        FeatureError: wrong number of axes, no rows, or limit below 1.

    Source: the down-sampling of long videos to the length of the positional table (implementation details).
    """
    _check(features, limit)
    return _resample(features, min(len(features), limit))


def align(features: npt.NDArray[np.generic], clips: int) -> Floats:
    """A sequence of any length brought to exactly ``clips`` clips, shrunk or stretched by the same rule.

    Args:
        features: [T, D], any real dtype, T >= 1. May be memory-mapped.
        clips: length of the result, at least 1.

    Returns:
        [clips, D] float32.

    Raises:
        FeatureError: wrong number of axes, no rows, or clips below 1.
    """
    _check(features, clips)
    return _resample(features, clips)


def _resample(features: npt.NDArray[np.generic], clips: int) -> Floats:
    if len(features) == clips:  # the common case by far, and ten times as slow by index
        return np.array(features, dtype=np.float32, order="C")
    edges = boundaries(len(features), clips)
    out = np.asarray(features[edges[:-1]], dtype=np.float32)  # [clips, D], right for clips of one row or none
    for clip in np.flatnonzero(np.diff(edges) > 1):
        rows = np.asarray(features[edges[clip] : edges[clip + 1]], dtype=np.float32)
        # np.mean over float32 rows, clip by clip: equal to the training pipeline's to the last bit, which a
        # single np.add.reduceat over all clips is not.
        out[clip] = rows.mean(axis=0)
    return out


def _check(features: npt.NDArray[np.generic], clips: int) -> None:
    if features.ndim != 2 or not len(features):
        raise FeatureError(f"features: got shape {features.shape}, expected (clips, width) with a clip at least")
    if clips < 1:
        raise FeatureError(f"clips wanted: got {clips}, expected at least 1")
