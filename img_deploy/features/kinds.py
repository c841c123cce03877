"""The kinds of features the network is trained on: one table, which everything else asks."""

import math
from dataclasses import dataclass
from typing import Literal

from img_deploy.errors import FeatureError

Stream = Literal["video", "audio", "text"]


@dataclass(frozen=True)
class FeatureKind:
    """One kind of feature: a vector of ``width`` numbers per clip (or per token of a query)."""

    name: str
    width: int
    max_clips: int = 128
    """Longest video in clips; a longer one is down-sampled to it. Of no meaning to audio and text."""
    stream: Stream | None = None
    """None for a plain kind."""
    label: str = ""
    """The name as people write it: ``I3D`` for ``i3d``."""
    files: tuple[str, ...] = ()
    """Where it lies in a dataset's feature folder: ``folder/{}.suffix``, {} being the video or query id, or one file
    that holds all videos. Several are the parts of one vector, in its order; the last decides the clips."""
    integer_scale: float = 1
    """Integers are divided by it."""
    usual: tuple[float, float] = (-math.inf, math.inf)
    """The range of its values; others are remarked upon."""
    most: float = math.inf
    """Values of a larger magnitude are refused."""
    tokens: str | None = None
    """Of a video kind: the text kind that goes with it."""
    numbering: Literal["txt", "jsonl"] | None = None
    """Of a text kind: the annotation files whose query ids its files go by."""

    def __str__(self) -> str:
        return f"{self.label or self.name} (width {self.width})"

    def is_usual(self, least: float, greatest: float) -> bool:
        """Whether values lie inside the usual range; False at its ends, which rounding may reach, and for NaN."""
        return self.usual[0] < least and greatest < self.usual[1]


PLAIN = "plain"
"""Name of a kind of no known extractor: features of any width."""
PLAIN_FILES: dict[Stream, tuple[str, ...]] = {
    "video": ("video/{}.npy",),
    "audio": ("audio/{}.npy",),
    "text": ("text/{}.npy",),
}

_NO_FEATURE = 1e6  # no extractor of the table gives such numbers: a wrong unit, or bytes read as something else

KINDS = (
    FeatureKind(
        "i3d",
        1024,
        stream="video",
        label="I3D",
        files=("i3d_video/{}.npy",),
        usual=(-100, 100),
        most=_NO_FEATURE,
        tokens="clip",
    ),
    FeatureKind(
        "clip+sf",
        2816,
        stream="video",
        label="CLIP+SlowFast",
        files=("clip_features/slowfast_features/{}.npz", "clip_features/visual_features/{}.npy"),
        usual=(-100, 100),
        most=_NO_FEATURE,
        tokens="clip",
    ),
    FeatureKind(
        "iv2",
        768,
        max_clips=64,
        stream="video",
        label="InternVideo2",
        files=("iv2_features/visual_features_6b/{}.pt",),
        usual=(-100, 100),
        most=_NO_FEATURE,
        tokens="llama",
    ),
    FeatureKind(
        "panns",
        2048,
        stream="audio",
        label="PANNs",
        files=("audio/{}.npy",),
        usual=(-100, 100),
        most=_NO_FEATURE,
    ),
    FeatureKind(
        "vggish",
        128,
        stream="audio",
        label="VGGish",
        files=("audio/VGGish.pickle",),
        integer_scale=255,
        usual=(-2, 2),
        most=100,  # floats that go up to 255 were never divided
    ),
    FeatureKind(
        "clip",
        512,
        stream="text",
        label="CLIP text",
        files=("clip_features/text_features/qid_{}.npy",),
        usual=(-100, 100),
        most=_NO_FEATURE,
        numbering="txt",
    ),
    FeatureKind(
        "llama",
        4096,
        stream="text",
        label="LLaMA text",
        files=("iv2_features/llama2_txt/qid{}.pt",),
        usual=(-5000, 5000),  # a few of its dimensions reach thousands
        most=_NO_FEATURE,
        numbering="jsonl",
    ),
)


def kinds_of(stream: Stream) -> tuple[FeatureKind, ...]:
    """The known kinds of a stream, in the table's order."""
    return tuple(kind for kind in KINDS if kind.stream == stream)


def kind_of_width(stream: Stream, width: int) -> FeatureKind:
    """The kind of a width; a plain kind for any other width. Raises FeatureError below 1."""
    return next((kind for kind in kinds_of(stream) if kind.width == width), None) or _plain(width)


def kind_named(name: str, width: int | None = None) -> FeatureKind:
    """The kind of a name, of any stream.

    Args:
        name: e.g. ``i3d``; ``plain`` needs a width.
        width: where given, must be the kind's own.

    Raises:
        FeatureError: no such kind, or the width is another's.
    """
    if name == PLAIN:
        if width is None:
            raise FeatureError("feature kind 'plain': got no width, expected one; give the features' width")
        return _plain(width)
    kinds = {kind.name: kind for kind in KINDS}
    if name not in kinds:
        raise FeatureError(f"feature kind: got {name!r}, expected one of {', '.join([*kinds, PLAIN])}")
    kind = kinds[name]
    if width not in (None, kind.width):
        raise FeatureError(
            f"feature kind {name!r}: got width {width}, expected {kind.width}; name the kind 'plain' for another"
        )
    return kind


def _plain(width: int) -> FeatureKind:
    if width < 1:
        raise FeatureError(f"feature width: got {width}, expected at least 1")
    return FeatureKind(PLAIN, width)
