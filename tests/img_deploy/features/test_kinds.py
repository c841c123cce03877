from pathlib import Path

import pytest

from img_deploy.errors import FeatureError
from img_deploy.features.kinds import KINDS, FeatureKind, kind_named, kind_of_width, kinds_of


def test_the_table() -> None:
    """A checkpoint's widths would be taken for features of another extractor."""
    assert [(k.stream, k.name, k.width, k.max_clips, str(k)) for k in KINDS] == [
        ("video", "i3d", 1024, 128, "I3D (width 1024)"),
        ("video", "clip+sf", 2816, 128, "CLIP+SlowFast (width 2816)"),
        ("video", "iv2", 768, 64, "InternVideo2 (width 768)"),
        ("audio", "panns", 2048, 128, "PANNs (width 2048)"),
        ("audio", "vggish", 128, 128, "VGGish (width 128)"),
        ("text", "clip", 512, 128, "CLIP text (width 512)"),
        ("text", "llama", 4096, 128, "LLaMA text (width 4096)"),
    ]
    assert [(k.name, k.integer_scale) for k in KINDS if k.integer_scale != 1] == [("vggish", 255)]
    assert [(k.tokens, kind_named(k.tokens or "").numbering) for k in kinds_of("video")] == [
        ("clip", "txt"),
        ("clip", "txt"),
        ("llama", "jsonl"),
    ]
    for kind in KINDS:
        assert kind.stream is not None
        assert kind_of_width(kind.stream, kind.width) == kind
        assert kind.usual[0] < 0 < kind.usual[1] < kind.most


def test_the_page_shows_the_table() -> None:
    """A user would look for a kind's files, width or range where they no longer are."""
    page = (Path(__file__).parents[3] / "docs/features.md").read_text("utf-8")
    for kind in KINDS:
        files = " + ".join(f"`{name.replace('{}', 'N' if kind.stream == 'text' else 'VID')}`" for name in kind.files)
        limit = f"{kind.max_clips}" if kind.stream == "video" else ""
        usual = f"{kind.usual[0]:g} to {kind.usual[1]:g}"
        cells = (f"`{kind.name}`", kind.label, kind.stream, kind.width, files, limit, usual, f"{kind.most:g}")
        assert f"| {' | '.join(map(str, cells))} |" in page


def test_any_other_width_is_plain() -> None:
    """A model of own features could not be served."""
    assert kind_of_width("video", 33) == FeatureKind("plain", 33)
    assert kind_of_width("audio", 1024).name == "plain"
    assert kind_named("plain", 7) == kind_of_width("text", 7)


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
        kind_of_width("video", width)
