"""The kinds of features the network is trained on: their names and widths."""

from dataclasses import dataclass

from img_deploy.errors import FeatureError

_LABELS = {
    "i3d": "I3D",
    "clip+sf": "CLIP+SlowFast",
    "iv2": "InternVideo2",
    "panns": "PANNs",
    "vggish": "VGGish",
    "clip": "CLIP text",
    "llama": "LLaMA text",
}


@dataclass(frozen=True)
class FeatureKind:
    """One kind of feature: a vector of ``width`` numbers per clip (or per token of a query)."""

    name: str
    width: int
    max_clips: int = 128
    """Longest video in clips; a longer one is down-sampled to it. Of no meaning to audio and text."""

    @property
    def label(self) -> str:
        """The name as people write it: ``I3D`` for ``i3d``."""
        return _LABELS.get(self.name, self.name)

    def __str__(self) -> str:
        return f"{self.label} (width {self.width})"


PLAIN = "plain"
"""Name of a kind of no known extractor: features of any width."""

VIDEO_KINDS = (
    FeatureKind("i3d", 1024),
    FeatureKind("clip+sf", 2816),
    FeatureKind("iv2", 768, max_clips=64),
)
AUDIO_KINDS = (FeatureKind("panns", 2048), FeatureKind("vggish", 128))
TEXT_KINDS = (FeatureKind("clip", 512), FeatureKind("llama", 4096))


def video_kind(width: int) -> FeatureKind:
    """The visual kind of a width; a plain kind for any other width. Raises FeatureError below 1."""
    return _of_width(VIDEO_KINDS, width)


def audio_kind(width: int) -> FeatureKind:
    """The audio kind of a width; a plain kind for any other width. Raises FeatureError below 1."""
    return _of_width(AUDIO_KINDS, width)


def text_kind(width: int) -> FeatureKind:
    """The kind of token features of a width; a plain kind for any other. Raises FeatureError below 1."""
    return _of_width(TEXT_KINDS, width)


def kind_named(name: str, width: int | None = None) -> FeatureKind:
    """The kind of a name, video, audio or text.

    Args:
        name: e.g. ``i3d``; ``plain`` needs a width.
        width: where given, must be the kind's own.

    Raises:
        FeatureError: no such kind, or the width is another's.
    """
    if name == PLAIN:
        if width is None:
            raise FeatureError("feature kind 'plain': got no width, expected one; give the features' width")
        return _of_width((), width)
    kinds = {kind.name: kind for kind in (*VIDEO_KINDS, *AUDIO_KINDS, *TEXT_KINDS)}
    if name not in kinds:
        raise FeatureError(f"feature kind: got {name!r}, expected one of {', '.join([*kinds, PLAIN])}")
    kind = kinds[name]
    if width not in (None, kind.width):
        raise FeatureError(
            f"feature kind {name!r}: got width {width}, expected {kind.width}; name the kind 'plain' for another"
        )
    return kind


def _of_width(kinds: tuple[FeatureKind, ...], width: int) -> FeatureKind:
    if width < 1:
        raise FeatureError(f"feature width: got {width}, expected at least 1")
    return next((kind for kind in kinds if kind.width == width), FeatureKind(PLAIN, width))
