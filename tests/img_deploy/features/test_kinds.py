import pytest

from img_deploy.errors import FeatureError
from img_deploy.features.kinds import (
    AUDIO_KINDS,
    TEXT_KINDS,
    VIDEO_KINDS,
    FeatureKind,
    audio_kind,
    kind_named,
    text_kind,
    video_kind,
)


def test_known_widths_have_their_names() -> None:
    """A checkpoint's widths would be taken for features of another extractor."""
    assert [(k.name, k.width, k.max_clips) for k in VIDEO_KINDS] == [
        ("i3d", 1024, 128),
        ("clip+sf", 2816, 128),
        ("iv2", 768, 64),
    ]
    assert [video_kind(k.width) for k in VIDEO_KINDS] == list(VIDEO_KINDS)
    assert [audio_kind(k.width).name for k in AUDIO_KINDS] == ["panns", "vggish"]
    assert [text_kind(k.width).name for k in TEXT_KINDS] == ["clip", "llama"]


def test_any_other_width_is_plain() -> None:
    """A model of own features could not be served."""
    assert video_kind(33) == FeatureKind("plain", 33)
    assert audio_kind(1024).name == "plain"
    assert kind_named("plain", 7) == text_kind(7)


@pytest.mark.parametrize("name", ["i3d", "clip+sf", "iv2", "panns", "vggish", "clip", "llama"])
def test_lookup_by_name(name: str) -> None:
    """An option that names a kind would find another one."""
    kind = kind_named(name)
    assert kind.name == name
    assert kind_named(name, kind.width) == kind


@pytest.mark.parametrize(
    ("name", "width", "message"),
    [("resnet", None, "expected one of i3d"), ("plain", None, "got no width"), ("i3d", 1000, "expected 1024")],
)
def test_wrong_name_is_one_line(name: str, width: int | None, message: str) -> None:
    """A typing mistake would end in a KeyError, or in a kind nobody asked for."""
    with pytest.raises(FeatureError, match=message) as caught:
        kind_named(name, width)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [0, -5])
def test_impossible_width(width: int) -> None:
    """A plain kind of no columns would match an empty file."""
    with pytest.raises(FeatureError, match="at least 1"):
        video_kind(width)
