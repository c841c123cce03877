"""Feature folders: what lies where, and what is read of it."""

import builtins
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import FeatureError
from img_deploy.features import align, by_video, downsample, kind_named, open_folder
from img_deploy.features.kinds import FeatureKind
from img_deploy.features.readers import read_array

I3D, CLIP_SF, IV2 = kind_named("i3d"), kind_named("clip+sf"), kind_named("iv2")
PANNS, VGGISH = kind_named("panns"), kind_named("vggish")
CLIP_TEXT, LLAMA = kind_named("clip"), kind_named("llama")
PLAIN, PLAIN_AUDIO = FeatureKind("plain", 6), FeatureKind("plain", 4)

Build = Callable[..., Path]
Refusal = Callable[..., str]
VIDEOS = {"AO8RW": 5, "3MSZA": 150, "YVKIV": 1}


@pytest.mark.parametrize(("video", "limit"), [(I3D, 128), (CLIP_SF, 128), (IV2, 64)])
def test_charades_in_its_own_layout(charades: Build, video: FeatureKind, limit: int) -> None:
    """A user's data/features/charades would not be read, or not as in training."""
    root = charades(VIDEOS, silent=("YVKIV",))
    folder = open_folder(root, video, PANNS)
    assert folder.videos() == sorted(VIDEOS)
    for vid, source in VIDEOS.items():
        assert (folder.source_clips(vid), folder.clips(vid)) == (source, min(source, limit))
        loaded = folder.load(vid)
        assert loaded.video.shape == (min(source, limit), video.width)
        assert loaded.source_clips == source
        assert loaded.video.dtype == np.float32
        assert folder.has_audio(vid) == (vid != "YVKIV") == (loaded.audio is not None)
        if loaded.audio is not None:
            expected = align(read_array(root / f"audio/{vid}.npy"), len(loaded.video))
            np.testing.assert_array_equal(loaded.audio, expected)


def test_i3d_values(charades: Build) -> None:
    """Down-sampling would not be that of the golden values, or be applied to the wrong file."""
    root = charades(VIDEOS)
    loaded = open_folder(root, I3D, PANNS).load("3MSZA")
    np.testing.assert_array_equal(loaded.video, downsample(read_array(root / "i3d_video/3MSZA.npy"), 128))


@pytest.mark.parametrize(
    ("clips", "slowfast"), [(100, 0), (100, 1), (150, 0), (150, 3), (180, -90), (1, 40), (128, -1)]
)
def test_clip_vector_is_slowfast_then_clip(charades: Build, clips: int, slowfast: int) -> None:
    """The halves would be swapped, or SlowFast of a long video resampled twice (to CLIP's rows, then to the limit)."""
    root = charades({"AO8RW": clips}, slowfast=slowfast)
    clip = downsample(read_array(root / "clip_features/visual_features/AO8RW.npy"), 128)
    own_rows = read_array(root / "clip_features/slowfast_features/AO8RW.npz")
    assert len(own_rows) == clips + slowfast
    loaded = open_folder(root, CLIP_SF, PANNS).load("AO8RW")
    np.testing.assert_array_equal(loaded.video, np.concatenate([align(own_rows, len(clip)), clip], axis=1))
    sound = read_array(root / "audio/AO8RW.npy")
    np.testing.assert_array_equal(loaded.audio, align(sound, len(clip)))
    assert loaded.source_clips == clips


def test_clip_without_slowfast(charades: Build) -> None:
    """A video of which half is missing would fail in the middle of a run instead of being named before it."""
    root = charades(VIDEOS)
    (root / "clip_features/slowfast_features/AO8RW.npz").unlink()
    folder = open_folder(root, CLIP_SF, PANNS)
    assert folder.videos() == ["3MSZA", "YVKIV"]
    assert any("AO8RW" in note and "left out" in note for note in folder.notes)


@pytest.mark.parametrize("width", [("visual_features", ".npy", 500), ("slowfast_features", ".npz", 2000)])
def test_clip_or_slowfast_of_another_width(charades: Build, write: Any, width: tuple[str, str, int]) -> None:
    """One odd file would make a vector of another width than the network's."""
    root = charades(VIDEOS)
    place, suffix, columns = width
    path = root / f"clip_features/{place}/YVKIV{suffix}"
    if suffix == ".npy":
        write.npy(path, write.rows(0, 1, columns))
    else:
        write.npz(path, features=write.rows(0, 1, columns))
    with pytest.raises(FeatureError, match="expected 2816 together") as caught:
        open_folder(root, CLIP_SF, PANNS).load("YVKIV")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_activitynet_with_both_spellings(activitynet: Build, protocol: int) -> None:
    """The v_ prefix, which some files have and others lack, would leave videos without their sound."""
    root = activitynet({"v_a": 140, "v_b": 3, "c": 4}, {"v_a": 300, "b": 2, "v_c": 9}, protocol)
    folder = open_folder(root, I3D, VGGISH)
    assert folder.videos() == ["c", "v_a", "v_b"]
    for vid in ("v_a", "a", "v_b", "b", "v_c", "c"):
        assert vid in folder
        loaded = folder.load(vid)
        assert loaded.vid == vid
        assert loaded.video.shape == (folder.clips(vid), 1024)
        assert loaded.audio is not None
        assert loaded.audio.shape == (folder.clips(vid), 128)
        assert 0 <= loaded.audio.min() <= loaded.audio.max() <= 1
    assert "v_d" not in folder
    assert not folder.notes


def test_vggish_is_scaled_and_aligned(activitynet: Build) -> None:
    """The sound of ActivityNet would reach the network in another scale than in training."""
    root = activitynet({"v_a": 5}, {"v_a": 40})
    table = pickle.loads((root / "audio/VGGish.pickle").read_bytes())
    audio = open_folder(root, I3D, VGGISH).load("v_a").audio
    np.testing.assert_allclose(audio, align(table["v_a"] / 255.0, 5), atol=1e-6)


def test_vggish_is_read_once(activitynet: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of megabytes would be read again for every video."""
    root = activitynet({"v_a": 5, "v_b": 5}, {"v_a": 4, "v_b": 4})
    opened = count_opens(monkeypatch)
    folder = open_folder(root, I3D, VGGISH)
    for vid in folder.videos():
        folder.load(vid)
    assert sum(name.endswith("VGGish.pickle") for name in opened) == 1


def test_plain_folder(plain: Build) -> None:
    """A user's own features would need a dataset's layout."""
    folder = open_folder(plain({"a": 7, "b": 2}, {"a": 30}, qids=(4,)), PLAIN, PLAIN_AUDIO, FeatureKind("plain", 5))
    assert folder.videos() == ["a", "b"]
    assert folder.load("a").audio is not None
    assert folder.load("b").audio is None
    assert folder.load_text(4).shape == (3, 5)
    assert folder.text_numbering is None


def test_dataset_kinds_in_a_plain_folder(plain: Build) -> None:
    """Features of a known kind could not be kept in a plain folder."""
    folder = open_folder(plain({"a": 7}, {"a": 3}, width=1024, audio_width=2048), I3D, PANNS)
    assert folder.load("a").video.shape == (7, 1024)


def test_plain_kinds_in_a_dataset_layout(tmp_path: Path, write: Any) -> None:
    """Generated features of small widths, laid out as a dataset, would not be recognised."""
    write.npy(tmp_path / "i3d_video/a.npy", write.rows(0, 5, 6))
    write.npy(tmp_path / "audio/a.npy", write.rows(0, 9, 4))
    loaded = open_folder(tmp_path, PLAIN, PLAIN_AUDIO).load("a")
    assert loaded.audio is not None
    assert (loaded.video.shape, loaded.audio.shape) == ((5, 6), (5, 4))


def test_own_place_comes_first(charades: Build, write: Any) -> None:
    """Two places with features of the same width would be taken in an order nobody knows."""
    root = charades({"AO8RW": 5})
    write.npy(root / "video/other.npy", write.rows(1, 3, 1024))
    assert open_folder(root, I3D, PANNS).videos() == ["AO8RW"]


def test_places_are_tried_in_the_order_of_the_table(tmp_path: Path, write: Any) -> None:
    """Where features of the width lie in several places, none of them the kind's own, chance would choose."""
    for place, vid in (("video", "last"), ("iv2_features/visual_features_6b", "third"), ("i3d_video", "first")):
        write_one = write.pt if place.startswith("iv2") else write.npy
        write_one(tmp_path / place / f"{vid}.{'pt' if place.startswith('iv2') else 'npy'}", write.rows(0, 3, 2816))
    assert open_folder(tmp_path, CLIP_SF, None).videos() == ["first"]
    shutil.rmtree(tmp_path / "i3d_video")
    assert open_folder(tmp_path, CLIP_SF, None).videos() == ["third"]
    assert open_folder(tmp_path, FeatureKind("plain", 2816), None).videos() == ["last"]  # its own place
    for name in ("qid_1.npy", "1.npy"):
        place = "clip_features/text_features" if name.startswith("qid") else "text"
        write.npy(tmp_path / place / name, np.full((2, 5), len(place)))
    texts = open_folder(tmp_path, CLIP_SF, None, FeatureKind("llama", 5))
    assert texts.load_text(1).max() == len("clip_features/text_features")


def test_files_and_pickle_of_the_same_kind(tmp_path: Path, write: Any) -> None:
    """Sound of VGGish's width in single files would hide the pickle, which is where VGGish lies, or the other way."""
    write.npy(tmp_path / "video/a.npy", write.rows(0, 3, 6))
    write.npy(tmp_path / "audio/a.npy", np.ones((3, 128), np.float32))
    (tmp_path / "audio/VGGish.pickle").write_bytes(pickle.dumps({"a": np.zeros((3, 128), np.uint8)}))
    for kind, value in ((VGGISH, 0), (FeatureKind("plain", 128), 1)):
        audio = open_folder(tmp_path, PLAIN, kind).load("a").audio
        assert audio is not None
        assert audio.max() == value


@settings(max_examples=25, deadline=None)
@given(clips=st.integers(1, 300), sound=st.integers(0, 300), limit=st.integers(1, 130))
def test_any_lengths(tmp_path: Path, write: Any, clips: int, sound: int, limit: int) -> None:
    """Some length would give audio and video of different lengths, or a length other than announced."""
    write.npy(tmp_path / "video/a.npy", write.rows(clips, clips, 6))
    write.npy(tmp_path / "audio/a.npy", write.rows(sound, sound, 4))
    folder = open_folder(tmp_path, PLAIN, PLAIN_AUDIO, max_clips=limit)
    loaded = folder.load("a")
    assert len(loaded.video) == folder.clips("a") == min(clips, limit)
    assert folder.has_audio("a") == (sound > 0) == (loaded.audio is not None)
    assert loaded.audio is None or len(loaded.audio) == len(loaded.video)


@pytest.mark.parametrize("shape", [(0, 4), (0,)])
def test_empty_audio_is_silence(plain: Build, write: Any, shape: tuple[int, ...]) -> None:
    """A sound file of length 0, which extractors write for silent videos, would stop the run."""
    root = plain({"a": 7, "b": 3}, {"b": 3})
    write.npy(root / "audio/a.npy", np.zeros(shape, np.float32))
    folder = open_folder(root, PLAIN, PLAIN_AUDIO)
    assert not folder.has_audio("a")
    assert folder.load("a").audio is None


def test_links_into_a_store_of_blobs(plain: Build, tmp_path: Path) -> None:
    """Features kept as links (git-annex, DVC, a hub's cache) would not be read."""
    root = plain({"a": 7}, {"a": 4})
    for place in ("video", "audio"):
        blob = tmp_path / "blobs" / place
        blob.parent.mkdir(exist_ok=True)
        (root / place / "a.npy").rename(blob)
        (root / place / "a.npy").symlink_to(blob)
    assert open_folder(root, PLAIN, PLAIN_AUDIO).load("a").audio is not None


def test_fingerprint_tells_exchanged_files(plain: Build, tmp_path: Path, write: Any) -> None:
    """Answers about old features would be kept beside answers about new ones of the same size and time."""
    root = plain({"a": 7, "b": 3}, {"a": 4, "b": 4}, qids=(1,))
    folder = open_folder(root, PLAIN, PLAIN_AUDIO, FeatureKind("plain", 5))
    before = {vid: folder.fingerprint(vid) for vid in folder.videos()}
    text = folder.text_fingerprint(1)
    assert before["a"] != before["b"]
    assert before == {vid: folder.fingerprint(vid) for vid in ("a", "b")}
    (tmp_path / "link").symlink_to(root)
    assert open_folder(tmp_path / "link", PLAIN, PLAIN_AUDIO).fingerprint("v_a") == before["a"]
    status = (root / "audio/a.npy").stat()
    write.npy(root / "audio/a.npy", write.rows(99, 4, 4))
    os.utime(root / "audio/a.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert folder.fingerprint("a") != before["a"]
    assert folder.fingerprint("b") == before["b"]
    write.npy(root / "new.npy", write.rows(1, 3, 6)).replace(root / "video/b.npy")
    assert folder.fingerprint("b") != before["b"]
    write.npy(root / "text/1.npy", write.rows(2, 3, 5))
    assert folder.text_fingerprint(1) != text
    for ask, wrong in ((folder.fingerprint, "c"), (folder.text_fingerprint, 2)):
        with pytest.raises(FeatureError):
            ask(wrong)


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    real = builtins.open

    def counting(file: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(os.fspath(file) if not isinstance(file, int) else "")
        return real(file, *arguments, **options)

    monkeypatch.setattr(builtins, "open", counting)
    return opened


@pytest.mark.parametrize(
    ("text", "words", "numbering"), [(CLIP_TEXT, 5, "txt"), (LLAMA, 7, "jsonl")], ids=["clip", "llama"]
)
def test_text_features(charades: Build, text: FeatureKind, words: int, numbering: str) -> None:
    """Token features would be read from the wrong place, or matched to the wrong numbering of queries."""
    folder = open_folder(charades(VIDEOS, qids=(3, 12408)), I3D, PANNS, text)
    for qid in (3, 12408):
        features = folder.load_text(qid)
        assert features.shape == (words, text.width)
        assert features.dtype == np.float32
    assert folder.text_numbering == numbering
    with pytest.raises(FeatureError, match="no text features for query 12409"):
        folder.load_text(12409)


@pytest.mark.parametrize("name", ["qid_7.npy", "qid7.pt", "7.npy", "7.pt"])
def test_text_features_from_a_named_folder(plain: Build, write: Any, tmp_path: Path, name: str) -> None:
    """--text-features DIR would accept one naming only."""
    array = write.rows(0, 4, 5)
    (write.npy if name.endswith(".npy") else write.pt)(tmp_path / "queries" / name, array)
    folder = open_folder(plain({"a": 3}, {}), PLAIN, None, FeatureKind("plain", 5), text_dir=tmp_path / "queries")
    np.testing.assert_array_equal(folder.load_text(7), array)


def test_a_named_text_folder_keeps_its_numbering(charades: Build) -> None:
    """LLaMA features named by hand would be asked for by the ids of the txt files."""
    root = charades(VIDEOS, qids=(3,))
    folder = open_folder(root, I3D, PANNS, LLAMA, text_dir=root / "iv2_features/llama2_txt")
    assert folder.text_numbering == "jsonl"


def test_text_features_that_are_missing_or_wrong(charades: Build, tmp_path: Path, refusal: Refusal) -> None:
    """A run would encode all videos before it finds that it cannot ask anything."""
    root = charades(VIDEOS)
    assert "found no text features, wanted LLaMA text" in refusal(root, I3D, PANNS, LLAMA)
    charades({}, qids=(3,))
    assert "found CLIP text (width 512)" in refusal(
        root, I3D, PANNS, LLAMA, text_dir=root / "clip_features/text_features"
    )
    (tmp_path / "empty").mkdir()
    assert "found nothing, wanted CLIP text" in refusal(root, I3D, PANNS, CLIP_TEXT, text_dir=tmp_path / "empty")
    assert "no such file" in refusal(root, I3D, PANNS, CLIP_TEXT, text_dir=tmp_path / "nowhere")
    with pytest.raises(FeatureError, match="opened without text features"):
        open_folder(root, I3D, PANNS).load_text(3)


def test_by_video_finds_either_spelling() -> None:
    """A duration given for v_X would not be found for X."""
    assert by_video({"v_a": 1.0}, "a") == by_video({"a": 1.0}, "v_a") == 1.0
    assert by_video({"v_a": 1.0, "a": 2.0}, "a") == 2.0
    assert by_video({"b": 1.0}, "a") is None


def test_threads_share_a_folder(plain: Build) -> None:
    """Readers in several threads would disturb each other."""
    from concurrent.futures import ThreadPoolExecutor

    videos = {f"v{number}": number + 1 for number in range(40)}
    folder = open_folder(plain(videos, videos), PLAIN, PLAIN_AUDIO)
    with ThreadPoolExecutor(8) as pool:
        for vid, loaded in zip(videos, pool.map(folder.load, videos), strict=True):
            assert loaded.vid == vid
            assert len(loaded.video) == videos[vid]
