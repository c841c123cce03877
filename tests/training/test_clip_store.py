"""The copy of the features that training reads: found again, made anew when it must be, and cleaned up."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from img_deploy.errors import FeatureError, InputError
from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.features.kinds import kind_of_width
from img_deploy.training import clip_store
from img_deploy.training.clip_store import open_clip_store, open_text_store

VIDS = ("a", "b", "c", "d")


@pytest.fixture
def root(tmp_path):
    """Four videos of 3 to 6 clips; d has no sound."""
    folder = tmp_path / "features"
    random = np.random.default_rng(0)
    for name, width in (("video", 6), ("audio", 5), ("text", 4)):
        (folder / name).mkdir(parents=True)
        for number, vid in enumerate(VIDS[: None if name == "video" else 3]):
            file = f"{number}.npy" if name == "text" else f"{vid}.npy"
            np.save(folder / name / file, random.standard_normal((number + 3, width)).astype("f4"))
    return folder


def opened(path, text=None):
    return open_folder(path, kind_of_width("video", 6), kind_of_width("audio", 5), text)


def store(path, cache, vids=VIDS):
    return open_clip_store(opened(path), vids, cache)


def copies(cache, what="clips"):
    return sorted(path for path in cache.iterdir() if path.name.startswith(f"{what}-"))


@pytest.fixture
def loads(monkeypatch):
    """The videos whose files are read, in order."""
    read, load = [], FeatureFolder.load
    monkeypatch.setattr(FeatureFolder, "load", lambda folder, vid: read.append(vid) or load(folder, vid))
    return read


def assert_right(made, root):
    """The store holds what the readers of inference give."""
    folder = opened(root)
    for row, vid in enumerate(made.vids):
        features = folder.load(vid)
        np.testing.assert_array_equal(made.video[row], features.video)
        assert made.has_audio[row] == (features.audio is not None)
        if features.audio is not None:
            np.testing.assert_array_equal(made.audio[row], features.audio)


def test_features_are_read_once_and_found_again(root, tmp_path, loads):
    """Twenty thousand videos read anew at every start cost an hour each time."""
    assert_right(store(root, tmp_path / "cache"), root)
    loads.clear()
    again = store(root, tmp_path / "cache")
    assert loads == []
    assert isinstance(again.video.rows, np.memmap)
    assert again.vids == VIDS
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")} == {".lock"}


def test_one_copy_however_the_folder_is_spelled_and_whatever_strays_in_it(root, tmp_path, loads, monkeypatch):
    """Each spelling of a path, each .DS_Store would cost another 2 GB."""
    cache = tmp_path / "cache"
    store(root, cache)
    loads.clear()
    (root / "video" / ".DS_Store").write_bytes(b"x")
    (root / "notes.txt").write_text("x")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root)
    for spelling in (".", "../features", tmp_path / "link", root / "video" / ".."):
        store(spelling, cache)
    assert loads == []
    assert len(copies(cache)) == 1


def exchange(path, how):
    """Other content of the same size and modification time, by one of the ways that files change."""
    old, status = np.load(path), path.stat()
    target = path.with_name(".new") if how != "rewritten" else path
    np.save(target if how == "rewritten" else target.with_suffix(".npy"), old + 1)
    if how != "rewritten":
        os.utime(target.with_suffix(".npy"), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(target.with_suffix(".npy"), path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("place", ["video", "audio"])
@pytest.mark.parametrize("how", ["rewritten", "replaced"])
def test_exchanged_files_of_the_same_size_and_time_are_read_anew(root, tmp_path, place, how):
    """rsync -t, cp -p, tar and image layers keep times; a stale copy trains on what is no longer there."""
    cache = tmp_path / "cache"
    before = store(root, cache)
    exchange(root / place / "b.npy", how)
    after = store(root, cache)
    assert_right(after, root)
    assert not np.array_equal(getattr(after, place)[1], getattr(before, place)[1])
    assert len(copies(cache)) == 1, "the copy that no longer fits is removed"


def test_links_are_followed_to_the_files_behind_them(root, tmp_path):
    """A folder of links stays the same when their targets change."""
    path = root / "video" / "b.npy"
    target = tmp_path / "b.npy"
    path.rename(target)
    path.symlink_to(target)
    store(root, tmp_path / "cache")
    np.save(target, np.load(target) + 1)
    assert_right(store(root, tmp_path / "cache"), root)


@pytest.mark.parametrize("place", ["video", "audio"])
def test_a_link_that_leads_nowhere_hurts_its_video_alone(root, tmp_path, place):
    """One dangling link stopped a training on thousands of videos."""
    path = root / place / "b.npy"
    path.unlink()
    path.symlink_to(tmp_path / "nowhere.npy")
    made = store(root, tmp_path / "cache")
    assert made.vids == ("a", "c", "d")
    assert "b.npy" in made.left_out["b"]
    assert_right(made, root)
    assert store(root, tmp_path / "cache").left_out == made.left_out, "said again when the copy is found again"
    np.save(tmp_path / "nowhere.npy", np.load(root / place / "a.npy"))
    assert store(root, tmp_path / "cache").vids == VIDS, "read once it is there"


@pytest.mark.parametrize(
    "damage",
    [
        lambda home: (home / "video.npy").write_bytes((home / "video.npy").read_bytes()[:200]),
        lambda home: (home / "audio.npy").write_bytes(b""),
        lambda home: (home / "audio.npy").unlink(),
        lambda home: np.save(home / "video.npy", np.zeros((18, 6))),
        lambda home: (home / "index.json").write_text('{"vids": ['),
        lambda home: (home / "index.json").write_text("[]"),
        lambda home: (home / "index.json").write_text('{"lengths": {"video": ["a"]}}'),
        lambda home: (home / "index.json").write_bytes(b"\xff\xfe\x00"),
        lambda home: (home / "index.json").unlink(),
        lambda home: shutil.rmtree(home) or home.write_text("a file"),
    ],
)
def test_a_damaged_copy_is_made_again(root, tmp_path, damage):
    """A disk that was full, a crash or a cut copy must not need a user who knows what to delete."""
    store(root, tmp_path / "cache")
    (home,) = copies(tmp_path / "cache")
    damage(home)
    assert_right(store(root, tmp_path / "cache"), root)
    assert len(copies(tmp_path / "cache")) == 1


def test_a_full_disk_is_one_line(root, tmp_path):
    """Mapped pages that the disk has no room for end the process with SIGBUS."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from img_deploy.features.folders import open_folder; from img_deploy.features.kinds import kind_of_width\n"
        "from img_deploy.training.clip_store import open_clip_store\n"
        "folder = open_folder(sys.argv[1], kind_of_width('video', 6), kind_of_width('audio', 5))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))  # as a disk with room for 300 bytes\n"
        "open_clip_store(folder, folder.videos(), Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(root), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "InputError" in done.stderr
    assert "cannot keep features there" in done.stderr.splitlines()[-1]
    assert copies(tmp_path / "cache") == []


def test_what_killed_programs_left_is_removed(root, tmp_path):
    """Each kill -9 would leave up to 2 GB; what others keep in the folder stays."""
    cache = tmp_path / "cache"
    key = 20 * "0"
    for name in (f".clips-{key}-{key}.123.tmp", f".clips-{key}.deadbeef", f"clips-{key}", f"text-{key}", "clips-mine"):
        (cache / name).mkdir(parents=True)
    (cache / ".clips-notes").write_text("mine")
    store(root, cache)
    kept = {path.name for path in cache.iterdir()}
    assert kept == {".lock", "clips-mine", ".clips-notes", *(path.name for path in copies(cache))}
    assert len(copies(cache)) == 2


def test_a_cache_keeps_the_copies_last_used(root, tmp_path, monkeypatch):
    """Copies for other splits and lengths are kept side by side, but not without end."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(clip_store, "MOST_COPIES", 3)
    for number, vids in enumerate([("a",), ("b",), ("c",)]):
        store(root, cache, vids)
        os.utime(copies(cache)[0].parent)
        for home in copies(cache):
            if json.loads((home / "index.json").read_text())["vids"] == list(vids):
                os.utime(home, (number, number))
    store(root, cache, ("a",))  # used now
    store(root, cache, ("d",))
    left = {tuple(json.loads((home / "index.json").read_text())["vids"]) for home in copies(cache)}
    assert left == {("a",), ("c",), ("d",)}


def test_a_cache_that_cannot_be_written_is_one_clear_error(root, tmp_path):
    """A read-only data folder is common on clusters."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot keep features there.*--cache"):
        store(root, tmp_path / "file")


def test_a_set_of_unreadable_videos_is_one_clear_error(root, tmp_path):
    """An empty training set would divide by zero far from its cause."""
    for path in (root / "video").iterdir():
        np.save(path, np.full_like(np.load(path), np.nan))
    with pytest.raises(FeatureError, match=r"none of 4 videos can be read; .*a\.npy"):
        store(root, tmp_path / "cache")
    assert copies(tmp_path / "cache") == []


def test_token_features_that_are_missing_are_named(root, tmp_path):
    """The others keep their rows: a shift would answer each query for another's tokens."""
    folder = opened(root, kind_of_width("text", 4))
    packed, left_out = open_text_store(folder, [2, 7, 0], tmp_path / "cache")
    assert packed.lengths.tolist() == [5, 0, 3]
    assert list(left_out) == [7]
    for row, qid in ((0, 2), (2, 0)):
        np.testing.assert_array_equal(packed[row], folder.load_text(qid))
    assert open_text_store(folder, [2, 7, 0], tmp_path / "cache")[1] == left_out
