"""Files under other names: matched where that is safe, told where they are not used."""

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from img_deploy.features import kind_named, open_folder
from img_deploy.features.kinds import FeatureKind

I3D, VGGISH = kind_named("i3d"), kind_named("vggish")
PLAIN, PLAIN_AUDIO = FeatureKind("plain", 6), FeatureKind("plain", 4)

Build = Callable[..., Path]
Refusal = Callable[..., str]


def test_no_audio_folder_is_in_order_and_said(plain: Build) -> None:
    """Videos without sound would be refused, or answered without saying that the sound was not found."""
    folder = open_folder(plain({"a": 7, "b": 3}, {}), PLAIN, PLAIN_AUDIO)
    assert folder.load("a").audio is None
    assert any("2 of 2 videos have no sound" in note for note in folder.notes)


def test_audio_of_other_videos(plain: Build) -> None:
    """Sound files of other videos would be given to these ones, or their absence go unsaid."""
    folder = open_folder(plain({"a": 7, "b": 3}, {"a": 7, "x": 3, "y": 4}), PLAIN, PLAIN_AUDIO)
    assert [folder.has_audio(vid) for vid in folder.videos()] == [True, False]
    assert any("1 of 2" in note for note in folder.notes)


NAMED = {"NFC": unicodedata.normalize("NFC", "Tür"), "NFD": unicodedata.normalize("NFD", "Tür")}


@pytest.mark.parametrize(
    ("video", "sound"),
    [
        ("aaa.npy", "aaa.NPY"),
        ("aaa.NPY", "aaa.npy"),
        ("aaa.npy", "aaa.mp4.npy"),
        ("aaa.npy", "aaa.MP4.Npy"),
        ("aaa.mp4.npy", "aaa.npy"),
        ("aaa.mp4.npy", "aaa.wav.npy"),
        ("v_aaa.npy", "aaa.mkv.npy"),
        (f"{NAMED['NFC']}.npy", f"{NAMED['NFD']}.npy"),
        (f"{NAMED['NFD']}.npy", f"v_{NAMED['NFC']}.npy"),
    ],
)
def test_sound_under_another_name(tmp_path: Path, write: Any, video: str, sound: str) -> None:
    """Every answer would come from sight alone because a suffix or a Unicode form differs."""
    for folder, name, width in (("video", video, 6), ("audio", sound, 4)):
        write.npy(tmp_path / "a.npy", write.rows(0, 3, width))
        (tmp_path / folder).mkdir()
        (tmp_path / "a.npy").rename(tmp_path / folder / name)
    folder = open_folder(tmp_path, PLAIN, PLAIN_AUDIO)
    (vid,) = folder.videos()
    for spelling in (vid, "Tür" if vid.endswith("r") else "aaa"):
        assert folder.load(spelling).audio is not None
        assert folder.clips(spelling) == 3
    assert not folder.notes


@pytest.mark.parametrize(
    "name",
    ["aaa_panns.npy", "AAA.npy", "aaa.npz", "aaa.pt", "aaa.h5", "aaa.wav", "aaa.features.npy", "aaa", "aaa.npy.gz"],
)
def test_sound_that_is_there_and_not_used_is_told(plain: Build, write: Any, name: str) -> None:
    """The note would read as if there were no sound; answers come from sight alone."""
    root = plain({"aaa": 7, "bbb": 3}, {})
    (root / "audio").mkdir()
    for vid in ("aaa", "bbb"):
        path = write.npy(root / "a.npy", write.rows(0, 3, 4))
        path.rename(root / "audio" / name.replace("aaa", vid).replace("AAA", vid.upper()))
    folder = open_folder(root, PLAIN, PLAIN_AUDIO)
    assert not folder.has_audio("aaa")
    (note,) = folder.notes
    assert f"2 sound files are there, but none belongs to one of the 2 videos (e.g. audio/{name}" in note
    assert "expected audio/aaa.npy" in note


def test_some_sound_is_not_used(plain: Build) -> None:
    """A few misnamed files among many would be taken for videos without sound."""
    root = plain({"aaa": 7, "bbb": 3, "ccc": 2}, {"aaa": 3, "bbb_panns": 3, "zzz": 4})
    (root / "audio/notes.txt").touch()
    (root / "audio/.DS_Store").touch()
    notes = open_folder(root, PLAIN, PLAIN_AUDIO).notes
    assert notes == [
        f"{root}: 2 of 3 videos have no sound features (plain (width 4)); the visual head answers for them",
        f"{root}: 2 sound files belong to none of its videos, e.g. audio/bbb_panns.npy",
    ]


def test_pickled_sound_of_other_videos_is_told(activitynet: Build) -> None:
    """A pickle of another dataset would read as if these videos had no sound."""
    folder = open_folder(activitynet({"v_a": 3}, {"v_A": 3, "b": 2}), I3D, VGGISH)
    assert "2 sound files are there, but none belongs to one of the 1 videos (e.g. VGGish.pickle[b]" in folder.notes[0]


def test_video_files_that_are_not_read_are_told(plain: Build, write: Any, refusal: Refusal) -> None:
    """Videos saved in another format would be missing without a word."""
    root = plain({"aaa": 7}, {"aaa": 7})
    write.npz(root / "video/bbb.npz", features=write.rows(0, 3, 6))
    folder = open_folder(root, PLAIN, PLAIN_AUDIO)
    assert folder.videos() == ["aaa"]
    assert folder.notes == [f"{root}: 1 files beside the video features are not read, e.g. video/bbb.npz"]
    (root / "video/aaa.npy").unlink()
    assert "no features in video (bbb.npz)" in refusal(root, PLAIN, PLAIN_AUDIO)


def test_the_usual_suffix_comes_first(plain: Build, write: Any) -> None:
    """Of two files of one id, chance would choose."""
    root = plain({"a": 7}, {})
    write.npy(root / "b.npy", write.rows(0, 3, 6)).rename(root / "video/a.NPY")
    folder = open_folder(root, PLAIN, None)
    assert folder.clips("a") == 7
    assert "video/a.NPY" in folder.notes[0]


def test_an_id_that_may_be_two_videos(plain: Build) -> None:
    """An answer would be about whichever of two videos comes first."""
    folder = open_folder(plain({"a.mp4": 7, "a.mkv": 3, "v_b": 2}, {}), PLAIN, None)
    assert "a" not in folder
    assert folder.clips("a.mkv") == 3
    assert "b.mp4" in folder
