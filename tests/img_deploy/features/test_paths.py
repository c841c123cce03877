"""Features in object storage, by the example of fsspec's file system in memory."""

import time

import fsspec
import numpy as np
import pytest

from img_deploy.errors import FeatureError
from img_deploy.features import FeatureKind, kind_named, open_folder

SIX = FeatureKind("plain", 6)
KINDS = {
    "charades": [("i3d", "panns", None), ("clip+sf", "panns", "clip"), ("iv2", "panns", "llama")],
    "activitynet": [("i3d", "vggish", None)],
}


@pytest.fixture
def memory():
    """fsspec's memory, empty."""
    files = fsspec.filesystem("memory")
    yield files
    files.rm("/", recursive=True)


@pytest.mark.parametrize("dataset", ["charades", "activitynet"])
def test_a_remote_folder_holds_what_the_local_one_holds(dataset, charades, activitynet, memory):
    """A video would be missing in object storage, have other numbers, or change its identity between two runs."""
    lengths = {"A": 3, "B": 140, "C": 9}
    if dataset == "charades":
        root = charades(lengths, silent=("C",), qids=(4, 5))
    else:
        root = activitynet(lengths, {"A": 4, "B": 150})
    memory.put(str(root), "/bucket/features", recursive=True)
    for names in KINDS[dataset]:
        video, audio, text = (name and kind_named(name) for name in names)
        here, there, again = (
            open_folder(place, video, audio, text) for place in (root, *["memory://bucket/features"] * 2)
        )
        assert there.videos() == here.videos() == list("ABC")
        assert [note.replace("memory://bucket/features", str(root)) for note in there.notes] == here.notes
        for vid, one, other in zip("ABC", here.load_each("ABC"), there.load_each("ABC"), strict=True):
            assert (there.clips(vid), there.has_audio(vid)) == (here.clips(vid), here.has_audio(vid))
            assert (other.audio is None) == (one.audio is None)
            np.testing.assert_array_equal(other.video, one.video)
            if one.audio is not None:
                np.testing.assert_array_equal(other.audio, one.audio)
            assert there.fingerprint(vid) == again.fingerprint(vid)
        if text is not None:
            np.testing.assert_array_equal(there.load_text(4), here.load_text(4))


def test_a_new_file_has_another_fingerprint(plain, memory):
    """A video that is extracted anew would go on answering as it was."""
    root = plain({"A": 3}, {})
    memory.put(str(root), "/bucket", recursive=True)
    before = open_folder("memory://bucket", SIX, None).fingerprint("A")
    time.sleep(0.01)
    memory.put(str(root / "video/A.npy"), "/bucket/video/A.npy")
    assert open_folder("memory://bucket", SIX, None).fingerprint("A") != before


def test_what_is_wrong_in_a_remote_folder_is_named(plain, memory):
    """A user would see the name of a temporary copy, or a traceback of the storage client."""
    memory.put(str(plain({"A": 3, "B": 4}, {})), "/bucket", recursive=True)
    memory.pipe("/bucket/video/C.npy", b"")
    memory.pipe("/bucket/video/D.npy", b"\x93NUMPY cut short")
    folder = open_folder("memory://bucket", SIX, None)
    [a, c, d, e] = folder.load_each(["A", "C", "D", "E"])
    assert a.video.shape == (3, 6)
    assert "memory://bucket/video/C.npy: got an empty file" in str(c)
    assert str(d).startswith("memory://bucket/video/D.npy: got ")
    assert "no features for video 'E'" in str(e)
    with pytest.raises(FeatureError, match="memory://bukket: there is no such file or folder"):
        open_folder("memory://bukket", SIX, None)
    with pytest.raises(FeatureError, match="gopher://x: cannot be opened"):
        open_folder("gopher://x", SIX, None)


def test_a_file_url_is_a_local_path(plain):
    """It would be read through copies, or not at all."""
    root = plain({"A": 3}, {})
    folder = open_folder(f"file://{root}", SIX, None)
    assert folder.path == root
    assert folder.fingerprint("A") == open_folder(root, SIX, None).fingerprint("A")
