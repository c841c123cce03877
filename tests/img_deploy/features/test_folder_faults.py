"""Folders that are broken, wrong or large: one line each, and no more read than is needed."""

import builtins
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from img_deploy.errors import FeatureError
from img_deploy.features import kind_named, open_folder
from img_deploy.features.kinds import FeatureKind
from img_deploy.features.readers import read_array

I3D, IV2, PANNS, LLAMA = map(kind_named, ("i3d", "iv2", "panns", "llama"))
PLAIN, PLAIN_AUDIO = FeatureKind("plain", 6), FeatureKind("plain", 4)

Build = Callable[..., Path]
Refusal = Callable[..., str]
VIDEOS = {"AO8RW": 5, "3MSZA": 150, "YVKIV": 1}


def test_links_that_lead_nowhere(plain: Build) -> None:
    """One file that was moved away would close the folder for all videos."""
    root = plain({"z": 7, "y": 2}, {"y": 3, "z": 3})
    for number in range(20):
        (root / f"video/a{number:02}.npy").symlink_to("/nowhere/a.npy")
    (root / "audio/y.npy").unlink()
    (root / "audio/y.npy").symlink_to("../gone/y.npy")
    (root / "video/loop.npy").symlink_to("loop.npy")
    folder = open_folder(root, PLAIN, PLAIN_AUDIO)
    assert folder.load("z").audio is not None
    with pytest.raises(FeatureError, match=r"loop\.npy.*Too many levels of symbolic links"):
        folder.load("loop")
    for vid, link in (("a07", "/nowhere/a.npy"), ("y", "../gone/y.npy")):
        with pytest.raises(FeatureError, match=f"a link to {link}, where there is nothing"):
            folder.load(vid)
        assert folder.fingerprint(vid) != folder.fingerprint("z")
    shutil.rmtree(root / "audio")
    (root / "audio").symlink_to("elsewhere")
    folder = open_folder(root, PLAIN, PLAIN_AUDIO)
    assert folder.load("y").audio is None
    assert "audio: a link to elsewhere, where there is nothing" in folder.notes[0]


@pytest.mark.parametrize("name", ["with space", "a'b\"c", "$(x)", "*?[a]", "-rf", "a#b%20", "日本", "a" * 200, "x.y"])
def test_strange_paths(tmp_path: Path, write: Any, name: str) -> None:
    """A folder or an id that is special to a shell, a glob or a URL would not be found."""
    root = tmp_path / name
    write.npy(root / f"video/{name}.npy", write.rows(0, 5, 6))
    write.npy(root / f"audio/{name}.npy", write.rows(1, 4, 4))
    folder = open_folder(root, PLAIN, PLAIN_AUDIO)
    assert folder.videos() == [name]
    assert folder.load(name).audio is not None
    assert not folder.notes


def test_a_broken_audio_file_is_not_silence(plain: Build) -> None:
    """A damaged sound file would silently make a video a silent one."""
    root = plain({"a": 7, "b": 3}, {"a": 7, "b": 3})
    (root / "audio/b.npy").write_bytes(b"")
    folder = open_folder(root, PLAIN, PLAIN_AUDIO)
    for ask in (folder.has_audio, folder.load):
        with pytest.raises(FeatureError, match=r"audio/b\.npy: got an empty file"):
            ask("b")


def test_sound_is_not_read_where_none_is_wanted(plain: Build) -> None:
    """A model without sound would stop at sound files of any kind."""
    folder = open_folder(plain({"a": 7}, {"a": 7}), PLAIN, None)
    assert folder.load("a").audio is None
    assert not folder.notes


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    real = builtins.open

    def counting(file: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(os.fspath(file) if not isinstance(file, int) else "")
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counting)
    return opened


def test_thousands_of_videos_are_listed_without_reading(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a large folder would read its files."""
    for place, width in (("video", 6), ("audio", 4)):
        first = write.npy(tmp_path / place / "v00000.npy", write.rows(0, 3, width))
        for number in range(1, 4_000):
            os.link(first, tmp_path / place / f"v{number:05}.npy") if number % 1000 == 0 else (
                tmp_path / place / f"v{number:05}.npy"
            ).touch()
    opened = count_opens(monkeypatch)
    tracemalloc.start()
    folder = open_folder(tmp_path, PLAIN, PLAIN_AUDIO)
    assert len(folder.videos()) == len(folder) == 4_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(opened) == 2
    assert peak < 4e6
    assert folder.load("v03000").audio is not None


def test_clips_reads_headers_only(tmp_path: Path) -> None:
    """Sorting videos by length would read gigabytes (here a sparse file of 4 GB)."""
    (tmp_path / "video").mkdir()
    with open(tmp_path / "video/a.npy", "wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 1024)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.truncate(stream.tell() + 4096 * 10**6)
    folder = open_folder(tmp_path, I3D, None)
    tracemalloc.start()
    assert (folder.clips("a"), folder.source_clips("a")) == (128, 10**6)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_video_of_a_hundred_thousand_clips(tmp_path: Path) -> None:
    """A very long video would be refused or held whole (here 200 MB)."""
    (tmp_path / "video").mkdir()
    features = np.lib.format.open_memmap(tmp_path / "video/a.npy", "w+", np.float32, (100_000, 512))
    features[99_990] = 1
    features.flush()
    folder = open_folder(tmp_path, FeatureKind("plain", 512), None)
    tracemalloc.start()
    loaded = folder.load("a")
    assert tracemalloc.get_traced_memory()[1] < 40e6
    tracemalloc.stop()
    assert loaded.video.shape == (128, 512)
    assert loaded.video[-1].max() > 0


def test_not_finite_in_a_row_that_resampling_skips(plain: Build, write: Any) -> None:
    """A broken file would pass because its NaN lies in the last row, which down-sampling leaves out."""
    root = plain({"a": 200}, {})
    features = read_array(root / "video/a.npy")
    features = features.copy()
    features[199, 2] = np.nan
    write.npy(root / "video/a.npy", features)
    with pytest.raises(FeatureError, match=r"video/a\.npy: got NaN at clip 199 \(column 2\)"):
        open_folder(root, PLAIN, None).load("a")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (np.zeros((0, 6), np.float32), "no clips for video 'b'"),
        (np.zeros((3, 5), np.float32), "got width 5, expected 6"),
        (np.zeros(6, np.float32), r"got shape \(6,\)"),
    ],
)
def test_one_bad_video_is_named(plain: Build, write: Any, broken: np.ndarray, message: str) -> None:
    """One bad file among many would close the folder, or end in a traceback."""
    root = plain({"a": 7, "b": 3}, {})
    write.npy(root / "video/b.npy", broken)
    folder = open_folder(root, PLAIN, None)
    assert folder.load("a").video.shape == (7, 6)
    with pytest.raises(FeatureError, match=message):
        folder.load("b")


def test_a_broken_first_file_does_not_close_the_folder(plain: Build) -> None:
    """The width is looked up in a header; were that file broken, no other video could be asked."""
    root = plain({"a": 7, "b": 3}, {})
    (root / "video/a.npy").write_text("not found")
    assert open_folder(root, PLAIN, None).load("b").video.shape == (3, 6)


def test_unknown_video(charades: Build) -> None:
    """A video id typed wrongly would end in a KeyError, or reach outside the folder."""
    folder = open_folder(charades(VIDEOS), I3D, PANNS)
    with pytest.raises(FeatureError, match=r"no features for video '3MSZB' among 3; did you mean 3MSZA\?"):
        folder.load("3MSZB")
    for ask in (folder.clips, folder.source_clips, folder.load):
        with pytest.raises(FeatureError, match="no features for video"):
            ask("../audio/3MSZA")


def test_wanted_kind_is_missing(charades: Build, refusal: Refusal) -> None:
    """The user would not learn what the folder holds and what was wanted instead."""
    root = charades(VIDEOS)
    for path in (root / "iv2_features/visual_features_6b").iterdir():
        path.unlink()
    message = refusal(root, IV2, PANNS)
    assert "found I3D (width 1024) in i3d_video, CLIP+SlowFast (width 2816) in clip_features/visual_features" in message
    assert "wanted InternVideo2 (width 768) in iv2_features/visual_features_6b" in message


def test_every_missing_kind_is_told_at_once(activitynet: Build, refusal: Refusal) -> None:
    """A user would mend one thing only to meet the next."""
    message = refusal(activitynet({"v_a": 3}, {"v_a": 3}), IV2, PANNS, LLAMA)
    for part in ("wanted InternVideo2", "found VGGish (width 128)", "wanted PANNs", "wanted LLaMA text"):
        assert part in message


def test_wrong_level_of_the_tree(charades: Build, tmp_path: Path, refusal: Refusal) -> None:
    """A path one folder too high or too low would be answered without the right one."""
    root = charades(VIDEOS)
    for path in (root.parent, root / "i3d_video", root / "clip_features/visual_features"):
        assert f"did you mean {root}?" in refusal(path, I3D, PANNS)
    (tmp_path / "empty").mkdir()
    assert "found nothing" in refusal(tmp_path / "empty", I3D, PANNS)
    (tmp_path / "empty/i3d_video").mkdir()
    assert "found no features in i3d_video, wanted I3D" in refusal(tmp_path / "empty", I3D, PANNS)


def test_files_straight_in_the_folder(tmp_path: Path, write: Any, refusal: Refusal) -> None:
    """A folder of bare .npy files would be refused without telling where they belong."""
    write.npy(tmp_path / "only/a.npy", write.rows(0, 3, 6))
    assert "found a.npy" in (message := refusal(tmp_path / "only", PLAIN, None))
    assert "video/*.npy" in message


def test_not_a_folder(tmp_path: Path, refusal: Refusal) -> None:
    """A file or nothing at all where a folder is wanted would end in a traceback."""
    (tmp_path / "file").touch()
    assert "got a file, expected a folder" in refusal(tmp_path / "file", PLAIN, None)
    assert "expected a folder" in refusal(tmp_path / "nothing", PLAIN, None)


def test_folder_without_permission(plain: Build, monkeypatch: pytest.MonkeyPatch, refusal: Refusal) -> None:
    """A folder of another owner would end in a PermissionError. (Simulated: root may read everything.)"""
    root = plain({"a": 3}, {})

    def deny(*_arguments: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)
    assert "no permission" in refusal(root, PLAIN, None)


def test_impossible_limit(plain: Build, refusal: Refusal) -> None:
    """A limit of 0 clips would divide by zero later."""
    assert "max_clips" in refusal(plain({"a": 3}, {}), PLAIN, None, max_clips=0)
