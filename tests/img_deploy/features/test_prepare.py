"""The one way in: every form of the same features gives the same numbers, and what is wrong is named."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from img_deploy.errors import FeatureError
from img_deploy.features import (
    FeatureKind,
    VideoFeatures,
    align,
    kind_named,
    open_folder,
    prepare_tokens,
    prepare_video,
)
from img_deploy.features.kinds import KINDS
from img_deploy.features.prepare import taken_as_given

I3D, PANNS, VGGISH = kind_named("i3d"), kind_named("panns"), kind_named("vggish")
VIDEO, AUDIO = FeatureKind("plain", 3), FeatureKind("plain", 2)
CLIPS = np.arange(12, dtype=np.float32).reshape(4, 3)
BYTES = np.random.default_rng(0).integers(0, 256, (9, 128), dtype=np.uint8)


def prepared(video: Any, audio: Any = None, kinds: tuple[FeatureKind, FeatureKind] = (VIDEO, AUDIO)) -> VideoFeatures:
    return prepare_video("video 'x'", video, audio, *kinds, 128)


def refusal(*arguments: Any) -> str:
    """The one line with which preparing ends; it must name the argument."""
    with pytest.raises(FeatureError) as caught:
        prepared(*arguments)
    message = str(caught.value)
    assert message.startswith("video 'x': ")
    assert "\n" not in message
    return message


def test_vggish_means_the_same_wherever_it_lies(tmp_path: Path) -> None:
    """The bytes of VGGish would be divided by 255 in its pickle alone, and be huge numbers anywhere else."""
    video = np.random.default_rng(1).standard_normal((5, 1024)).astype(np.float32)
    right = align(BYTES.astype(np.float32) / np.float32(255), 5)
    for place in ("pickle", "npy", "int64"):
        (tmp_path / place / "i3d_video").mkdir(parents=True)
        (tmp_path / place / "audio").mkdir()
        np.save(tmp_path / place / "i3d_video/v_one.npy", video)
    (tmp_path / "pickle/audio/VGGish.pickle").write_bytes(pickle.dumps({"v_one": BYTES}))
    np.save(tmp_path / "npy/audio/v_one.npy", BYTES)
    np.save(tmp_path / "int64/audio/one.npy", BYTES.astype(np.int64))
    for place in ("pickle", "npy", "int64"):
        loaded = open_folder(tmp_path / place, I3D, VGGISH).load("v_one")
        np.testing.assert_array_equal(loaded.audio, right)
        assert not loaded.remarks
    for given in (BYTES, BYTES.tolist(), BYTES.astype(">u2")):
        np.testing.assert_array_equal(prepared(video, given, (I3D, VGGISH)).audio, right)
    scaled = BYTES.astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(prepared(video, scaled, (I3D, VGGISH)).audio, right)


def test_values_of_another_scale() -> None:
    """VGGish that was turned into floats but never divided would saturate the importance of the sound, silently."""
    video = np.zeros((5, 1024), np.float32)
    message = refusal(video, BYTES.astype(np.float32), (I3D, VGGISH))
    assert "audio features: got values from 0 to 255, VGGish features lie between -2 and 2" in message
    assert "integers from 0 to 255 are divided" in message
    assert "got values" in refusal(video, BYTES.astype(np.int64) * 256, (I3D, VGGISH))
    assert "got values" in refusal(video + 1e12, None, (I3D, PANNS))
    odd = prepared(video, np.full((3, 128), 7.5, np.float32), (I3D, VGGISH))
    assert odd.remarks == (
        "video 'x': audio features: values from 0 to 7.5, VGGish features lie between -2 and 2; check their scale",
    )
    assert len(prepared(video - 300, np.full((3, 2048), 255, np.uint8), (I3D, PANNS)).remarks) == 2


def test_a_plain_kind_may_have_any_scale() -> None:
    """Features of an own extractor would be refused for not looking like I3D."""
    assert not prepared(CLIPS * np.float32(1e30)).remarks


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_usual_values_pass_without_a_remark(kind: FeatureKind) -> None:
    """A note about every video of a sound dataset would bury the ones that matter."""
    usual = np.random.default_rng(2).standard_normal((4, kind.width)).clip(-1.9, 1.9)
    for dtype in ("f2", "f4", "f8"):
        assert prepare_video("x", usual.astype(dtype), None, kind, None, 128).remarks == ()
        assert prepare_tokens("x", usual.astype(dtype), kind).shape == usual.shape


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", ">f8", "u1", "i2", "i8", ">i4"])
def test_number_types_and_memory_orders(dtype: str) -> None:
    """Features stored in another type or order would be refused, or read as other numbers."""
    array = CLIPS.astype(dtype)
    for form in (array, np.asfortranarray(array), array[::-1][::-1], np.tile(array, (1, 2))[:, :3], array[:, None]):
        result = prepared(form, array[:, :2])
        np.testing.assert_array_equal(result.video, CLIPS)
        np.testing.assert_array_equal(result.audio, CLIPS[:, :2])
        assert result.video.dtype == np.float32
        assert result.video.flags.c_contiguous


def test_tensors_and_lists() -> None:
    """An array of another library would be refused, or need torch where it is not installed."""
    import torch

    tensor = torch.from_numpy(CLIPS)
    for form in (
        tensor,
        tensor.clone().requires_grad_(),
        tensor.bfloat16(),
        tensor.half(),
        tensor.T.contiguous().T,
        torch._neg_view(-tensor),
    ):
        np.testing.assert_array_equal(prepared(form).video, CLIPS)
    for listed in (CLIPS.tolist(), [list(row) for row in CLIPS], tuple(map(tuple, CLIPS.tolist())), list(CLIPS)):
        np.testing.assert_array_equal(prepared(listed, [[1, 2]]).video, CLIPS)


def test_torch_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading .npy features would take the seconds that importing torch takes."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    prepared(CLIPS, CLIPS[:, :2])
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ("clips", "got a str, expected an array of numbers"),
        (None, "got a NoneType, expected an array of numbers"),
        (3.0, "got a float, expected an array of numbers"),
        ([1.0, 2.0], "got shape (2,)"),
        ([[1.0, 2.0], [1.0]], "got a list, expected an array of numbers"),
        ({"a": CLIPS}, "got a dict, expected an array of numbers"),
        ((row for row in CLIPS), "got a generator, expected an array of numbers"),
        (np.array([[None]]), "got an array of Python objects"),
        (CLIPS > 3, "got dtype bool"),
        (CLIPS.astype(complex), "got dtype complex128"),
        (np.zeros((0, 3)), "got no clips (an empty array of shape (0, 3))"),
        ([], "got no clips"),
        (CLIPS[None], "got shape (1, 4, 3)"),
        (CLIPS.T, "got width 4, expected 3; transpose it"),
        (CLIPS[:, :2], "got width 2, expected 3; give features of the kind"),
        (np.zeros((4, 2048)), "that is the width of PANNs (audio), this is video"),
        (np.where(CLIPS == 7, np.nan, CLIPS), "got NaN at clip 2 (column 1)"),
        (np.where(CLIPS == 7, -np.inf, CLIPS), "got Inf at clip 2 (column 1)"),
        (CLIPS.astype("f8") * 1e300, "got Inf at clip 0 (column 1)"),
    ],
)
def test_what_is_wrong_is_named(video: Any, message: str) -> None:
    """A wrong argument would end in a traceback out of numpy, or be used."""
    assert message in refusal(video).replace("video features: ", "", 1)
    with pytest.raises(FeatureError, match=r"^query 7: "):
        prepare_tokens("query 7", video, VIDEO)


def test_swapped_arguments() -> None:
    """Video and sound given in the wrong order would be told as two riddles."""
    message = refusal(np.zeros((4, 2048)), np.zeros((4, 1024)), (I3D, PANNS))
    assert "video features: got width 2048, expected 1024 (I3D); that is the width of PANNs (audio)" in message


def test_sound_where_none_is_wanted() -> None:
    """Sound given to a network without it would vanish."""
    with pytest.raises(FeatureError, match="the network takes no sound"):
        prepare_video("x", CLIPS, CLIPS, VIDEO, None, 128)


def test_a_meta_tensor_is_refused() -> None:
    """A tensor without data would end in a NotImplementedError of torch."""
    import torch

    assert "got a Tensor, expected an array of numbers" in refusal(torch.empty(4, 3, device="meta"))


def test_long_token_features_are_cut() -> None:
    """One long query would stop a run."""
    tokens = np.arange(600).reshape(200, 3)
    np.testing.assert_array_equal(prepare_tokens("q", tokens, VIDEO, 128), tokens[:128])
    assert len(prepare_tokens("q", tokens, VIDEO)) == 200


def test_the_result_does_not_share_memory() -> None:
    """Writing into the result would change the caller's array."""
    mine = CLIPS.copy()
    for result in (prepared(mine, mine[:, :2]).video, prepare_tokens("q", mine, VIDEO)):
        result[:] = -1
    np.testing.assert_array_equal(mine, CLIPS)


def test_what_may_be_shared_is_not_copied(tmp_path: Path) -> None:
    """A megabyte and a half is copied for each video; or features that were checked change with their file."""
    mine = CLIPS.copy()
    np.save(tmp_path / "clips.npy", mine)
    for given in (mine, mine.astype(np.float64), mine[:, ::-1], np.load(tmp_path / "clips.npy", mmap_mode="r")):
        result = prepare_video("x", given, None, VIDEO, AUDIO, 128, shared=True).video
        np.testing.assert_array_equal(result, given)
        assert np.shares_memory(result, given) == (given is mine)


def test_features_are_taken_as_given_where_preparing_changes_nothing(tmp_path: Path) -> None:
    """Other features than those prepared reach the network, or values that nobody looked at pass for checked."""
    clips, sound = CLIPS.copy(), CLIPS[:, :2].copy()
    found = taken_as_given("a", clips, sound, VIDEO, AUDIO, 4)
    wanted = prepare_video("a", clips, sound, VIDEO, AUDIO, 4, shared=True)
    assert found is not None
    assert (found.vid, found.source_clips, found.remarks) == (wanted.vid, wanted.source_clips, wanted.remarks)
    assert (found.video is clips, found.audio is sound) == (True, True)
    assert np.shares_memory(wanted.video, clips)
    assert np.shares_memory(wanted.audio, sound)
    assert (found.checked, wanted.checked) == (False, True)
    fixed = clips.copy()
    fixed.flags.writeable = False
    np.save(tmp_path / "clips.npy", clips)
    mapped = np.load(tmp_path / "clips.npy", mmap_mode="r+")
    others = (
        clips.tolist(),
        clips.astype(float),
        clips.astype(">f4"),
        clips[::-1],
        clips[:, :2],
        clips[None],
        fixed,
        mapped,
    )
    for other in others:
        assert taken_as_given("a", other, sound, VIDEO, AUDIO, 4) is None
    for other in (None, sound[:3].copy(), sound[:, :1].copy()):
        assert taken_as_given("a", clips, other, VIDEO, AUDIO, 4) is None
    assert taken_as_given("a", clips, sound, VIDEO, AUDIO, 3) is None
    assert taken_as_given("a", clips[:0].copy(), sound[:0].copy(), VIDEO, AUDIO, 4) is None


def test_folder_and_array_agree(charades: Callable[..., Path]) -> None:
    """An answer from files would differ from one through the Python API."""
    root = charades({"a": 150})
    loaded = open_folder(root, I3D, PANNS).load("a")
    given = prepare_video("a", np.load(root / "i3d_video/a.npy"), np.load(root / "audio/a.npy"), I3D, PANNS, 128)
    np.testing.assert_array_equal(given.video, loaded.video)
    np.testing.assert_array_equal(given.audio, loaded.audio)
    assert (given.vid, given.source_clips, given.remarks) == (loaded.vid, 150, ())
