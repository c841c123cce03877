"""Features as the network takes them: the one way in for files, arrays of the Python API, and anything else."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from img_deploy.errors import FeatureError, one_line
from img_deploy.features.checks import Array, check_dtype, clip_shape
from img_deploy.features.kinds import KINDS, FeatureKind, Stream
from img_deploy.features.resample import Floats, align

_ROWS = 4096
"""Rows looked at in one go, so that a long memory-mapped file is never held whole."""


_FLOAT32 = np.dtype(np.float32)
_LARGEST = float(np.finfo(_FLOAT32).max)


@dataclass(eq=False, slots=True)  # frozen, it would take four times as long to make
class VideoFeatures:
    """One video as the network takes it, L clips long."""

    vid: str
    """The id it was asked for by."""
    video: Floats
    """[L, Dv]"""
    audio: Floats | None
    """[L, Da], aligned to the video's clips; None for a video without sound."""
    source_clips: int
    """Clips as given, before down-sampling."""
    remarks: tuple[str, ...] = ()
    """What looks odd about its values, a line each; empty where all is as usual."""
    checked: bool = True
    """Whether its values were looked at."""


class Source(NamedTuple):
    """Features as they are stored, and what to call them in messages."""

    where: str
    values: Any
    """[T, W], anything that numpy makes an array of; (T, 1, .., 1, W) also."""


def prepare_video(
    vid: str,
    video: ArrayLike,
    audio: ArrayLike | None,
    video_kind: FeatureKind,
    audio_kind: FeatureKind | None,
    max_clips: int,
    shared: bool = False,
) -> VideoFeatures:
    """One video's features, checked, in the kind's scale and brought to the network's clips.

    Args:
        vid: what to call the video, also in messages.
        video: [T, Dv] numbers of any type: an array, a tensor, nested lists. Integers are brought to the scale of
            their kind (VGGish: divided by 255). More than ``max_clips`` clips are down-sampled.
        audio: [Ta, Da], aligned to the video's clips; None without sound.
        audio_kind: None where the network takes no sound; ``audio`` must then be None.
        shared: whether the result may hold a given array itself where it needs no change.

    Raises:
        FeatureError: no array, not numbers, wrong number of axes or width, no clips, NaN or Inf, or values that the
            kind cannot have. Odd values are remarked upon instead.
    """
    sound = None if audio is None else Source(f"{vid}: audio features", audio)
    lead = Source(f"{vid}: video features", video)
    return prepare_parts(vid, [lead], sound, video_kind, audio_kind, max_clips, shared)


def taken_as_given(
    vid: str, video: Any, audio: Any, video_kind: FeatureKind, audio_kind: FeatureKind, max_clips: int
) -> VideoFeatures | None:
    """Both arrays themselves, not yet ``checked``, where :func:`prepare_video` would change neither; None elsewhere."""
    if not _is_given(video, video_kind.width) or not _is_given(audio, audio_kind.width):
        return None
    clips = len(video)
    return VideoFeatures(vid, video, audio, clips, checked=False) if 1 <= clips == len(audio) <= max_clips else None


def _is_given(values: Any, width: int) -> bool:
    """Whether an array is as the network takes it. A read-only one is not: a file that is mapped may change."""
    if type(values) is not np.ndarray or values.dtype != _FLOAT32 or values.ndim != 2 or values.shape[1] != width:
        return False
    return bool(values.flags.carray)  # contiguous, aligned and writeable


def prepare_parts(
    vid: str,
    video: Sequence[Source],
    audio: Source | None,
    video_kind: FeatureKind,
    audio_kind: FeatureKind | None,
    max_clips: int,
    shared: bool = False,
) -> VideoFeatures:
    """:func:`prepare_video` for features in several parts (SlowFast and CLIP), in the order of the vector.

    The last part is cut to ``max_clips``; the others, and the sound, are aligned to the result, each once from its
    own rows.
    """
    arrays = [_array(source) for source in video]
    sound = None if audio is None else _array(audio)
    if audio is not None and audio_kind is None:
        raise FeatureError(f"{audio.where}: got some, but the network takes no sound; leave it out")
    _check_width(video, arrays, video_kind, "video")
    if audio is not None and sound is not None and audio_kind is not None:
        _check_width([audio], [sound], audio_kind, "audio")
    remarks: list[str] = []
    scaled = [_scaled(source.where, array, video_kind, remarks) for source, array in zip(video, arrays, strict=True)]
    clips = min(len(scaled[-1]), max_clips)
    parts = [_aligned(part, clips, shared) for part in scaled]
    aligned = None
    if audio is not None and sound is not None and audio_kind is not None:
        aligned = _aligned(_scaled(audio.where, sound, audio_kind, remarks), clips, shared)
    together = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return VideoFeatures(vid, together, aligned, len(scaled[-1]), tuple(remarks))


def prepare_tokens(where: str, tokens: ArrayLike, kind: FeatureKind, max_words: int | None = None) -> Floats:
    """Token features [N, Dt] float32 of one query; of more than ``max_words`` tokens the first are taken.

    Args:
        where: what to call them in messages.
        tokens: [N, Dt] numbers of any type, as for :func:`prepare_video`.

    Raises:
        FeatureError: as for :func:`prepare_video`.
    """
    source = Source(where, tokens)
    array = _array(source)
    _check_width([source], [array], kind, "text")
    return np.array(_scaled(where, array, kind, [])[:max_words], dtype=np.float32, order="C")


def _aligned(features: Array, clips: int, shared: bool) -> Floats:
    """[clips, W] float32."""
    if shared and len(features) == clips and _is_given(features, features.shape[1]):
        return np.asarray(features, np.float32)
    return align(features, clips)


def _array(source: Source) -> Array:
    """The values as an array [T, W] of real numbers, T >= 1, in the type they have."""
    where, values = source
    try:
        if hasattr(values, "detach"):  # a torch tensor, which may be on a GPU and be part of a graph
            values = values.detach().cpu().resolve_neg()
            values = values.float() if str(values.dtype) == "torch.bfloat16" else values
        array = np.asarray(values)
    except Exception as error:  # whatever a foreign type raises on its way to numpy
        kind = type(source.values).__name__
        raise FeatureError(f"{where}: got a {kind}, expected an array of numbers ({one_line(error, 120)})") from None
    if not isinstance(values, np.ndarray) and (array.dtype.hasobject or not array.ndim):  # numpy found no rows in it
        raise FeatureError(f"{where}: got a {type(source.values).__name__}, expected an array of numbers")
    check_dtype(array.dtype, where)
    array = array.reshape(clip_shape(array.shape, where))
    if not array.size:
        raise FeatureError(f"{where}: got no clips (an empty array of shape {array.shape}), expected at least one")
    return array


def _check_width(sources: Sequence[Source], arrays: Sequence[Array], kind: FeatureKind, stream: Stream) -> None:
    widths = [array.shape[1] for array in arrays]
    if sum(widths) == kind.width:
        return
    if len(widths) > 1:
        got = " and ".join(f"{width} in {source.where}" for source, width in zip(sources, widths, strict=True))
        raise FeatureError(f"got widths {got}, expected {kind.width} together; extract this video's features again")
    where, width = sources[0].where, widths[0]
    other = next((one for one in KINDS if one.width == width), None)
    name = f" ({kind.label})" if kind.label else ""
    if len(arrays[0]) == kind.width:
        advice = "transpose it"
    elif other is not None:
        advice = f"that is the width of {other.label} ({other.stream}), this is {stream}"
    else:
        advice = "give features of the kind asked for"
    raise FeatureError(f"{where}: got width {width}, expected {kind.width}{name}; {advice}")


def _scaled(where: str, features: Array, kind: FeatureKind, remarks: list[str]) -> Array:
    """[T, W] in the kind's scale, once every value is known to be one that the kind can have."""
    if features.dtype.kind in "iu" and kind.integer_scale != 1:
        features = np.asarray(features, np.float32) / np.float32(kind.integer_scale)
    least = most = 0.0
    usual_square = min(kind.usual[0] ** 2, kind.usual[1] ** 2, _LARGEST)
    with np.errstate(over="ignore", invalid="ignore"):
        for first in range(0, len(features), _ROWS):
            # float32 is what the network gets: 1e300 is an Inf to it. min and max of rows with a NaN are NaN.
            rows = np.asarray(features[first : first + _ROWS], dtype=np.float32)
            # No value of a clip exceeds its norm, which takes one pass where least and greatest value take two.
            if np.matmul(rows[:, None], rows[:, :, None]).max() <= usual_square:
                continue
            low, high = float(rows.min()), float(rows.max())
            if not -math.inf < low <= high < math.inf:
                raise _not_finite(where, rows, first)
            least, most = min(least, low), max(most, high)
    expected = f"{kind.label or kind.name} features lie between {kind.usual[0]:g} and {kind.usual[1]:g}"
    if max(-least, most) > kind.most:
        scale = ""
        if kind.integer_scale != 1:
            scale = f" (integers from 0 to {kind.integer_scale:g} are divided by it, floats are taken as they are)"
        raise FeatureError(f"{where}: got values from {least:g} to {most:g}, {expected}{scale}; mend their scale")
    if least < kind.usual[0] or most > kind.usual[1]:
        remarks.append(f"{where}: values from {least:g} to {most:g}, {expected}; check their scale")
    return features


def _not_finite(where: str, rows: Floats, first: int) -> FeatureError:
    row, column = (int(axis[0]) for axis in np.nonzero(~np.isfinite(rows)))
    kind = "NaN" if np.isnan(rows[row, column]) else "Inf"
    return FeatureError(
        f"{where}: got {kind} at clip {first + row} (column {column}), expected finite numbers; "
        "extract these features again"
    )
