"""The files of a synthetic dataset: published layout and formats, same bytes from one seed, whole or not there."""

import hashlib
import json
import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from img_deploy.errors import AnnotationError, InputError
from img_deploy.training.labels import label_moments
from img_deploy.training.synthetic import writer as writer_module
from img_deploy.training.synthetic.config import SyntheticConfig
from img_deploy.training.synthetic.queries import read_synthetic
from img_deploy.training.synthetic.writer import write_synthetic

TXT_ROW = re.compile(r"([A-Z0-9]{5}) (\d+\.\d) (\d+\.\d)##qid_(\d+)##([^#]+\.)")


def txt_rows(folder: Path, name: str) -> dict[int, tuple[str, str]]:
    """qid -> (vid, sentence) of one txt file."""
    lines = (folder / "dataset/charades" / f"charades_{name}_qid.txt").read_text().splitlines()
    matches = [TXT_ROW.fullmatch(line) for line in lines]
    assert all(matches)
    return {int(match[4]): (match[1], match[5]) for match in matches}


def tvr_rows(folder: Path, name: str) -> dict[int, tuple[str, str]]:
    """qid -> (vid, sentence) of one jsonl file."""
    lines = (folder / "dataset/charades" / f"charades_{name}_tvr_format.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert all(row.keys() == {"qid", "query", "duration", "vid", "relevant_windows"} for row in rows)
    return {row["qid"]: (row["vid"], row["query"]) for row in rows}


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_bytes(all_kinds, tmp_path):
    """Results on synthetic data could not be repeated elsewhere if one byte of any file moved."""
    config = SyntheticConfig(**read_synthetic(all_kinds).config)
    write_synthetic(tmp_path / "again", config)
    assert digests(tmp_path / "again") == digests(all_kinds)


def test_seeds_and_kinds_are_independent(tmp_path):
    """Another seed must give another set; another kind of features the same videos and queries."""
    shape = {"videos": 8, "moments": 3, "min_clips": 14, "max_clips": 16, "max_moment": 5}
    write_synthetic(tmp_path / "a", SyntheticConfig(kinds=("i3d",), **shape))
    write_synthetic(tmp_path / "b", SyntheticConfig(kinds=("i3d",), seed=1, **shape))
    write_synthetic(tmp_path / "c", SyntheticConfig(kinds=("clip+sf",), **shape))
    first, other_seed, other_kind = (digests(tmp_path / name) for name in "abc")
    assert first["planted.json"] != other_seed["planted.json"]
    assert not {value for name, value in first.items() if name.endswith(".npy")} & set(other_seed.values())
    for name in first:
        if name.startswith("dataset") or "/audio/" in name:
            assert first[name] == other_kind[name]


def test_charades_annotations(all_kinds):
    """The two numberings must disagree on every test row and be one shift apart, as in the published files."""
    train, test = txt_rows(all_kinds, "sta_train"), txt_rows(all_kinds, "sta_test")
    jsonl_train, jsonl_test = tvr_rows(all_kinds, "sta_train"), tvr_rows(all_kinds, "sta_test")
    assert list(train) + list(test) == list(range(len(train) + len(test)))
    assert list(jsonl_train) + list(jsonl_test) == list(range(len(train) - 4 + len(test)))
    assert {qid + 4: row for qid, row in jsonl_test.items()} == test
    half = len(train) // 2
    assert list(jsonl_train.items())[:half] == list(train.items())[:half]
    assert set(jsonl_train.values()) <= set(train.values())
    assert not {vid for vid, _ in train.values()} & {vid for vid, _ in test.values()}


def test_audio_matter_is_a_strict_subset_that_sound_decides(narrow, record):
    """A query that sight can answer, or one of the training set, would make this split say nothing."""
    subset, test = txt_rows(narrow, "audiomatter"), txt_rows(narrow, "sta_test")
    assert subset.items() < test.items()
    assert tvr_rows(narrow, "audiomatter_test").items() < tvr_rows(narrow, "sta_test").items()
    queries = record.by_qid("txt")
    for qid in test:
        query = queries[qid]
        decided = query.category == "look_alike" and not query.sight and query.audio == "real"
        assert (qid in subset) is decided is query.needs_sound


def test_durations(all_kinds):
    """Every annotated video needs a duration; jsonl windows are cut to it, txt ones may end past it."""
    videos = json.loads((all_kinds / "dataset/charades/charades.json").read_text())
    past = 0
    for query in read_synthetic(all_kinds).queries:
        if query.task == "charades":
            assert videos[query.vid]["duration"] == query.duration
            assert videos[query.vid]["subset"] == {"train": "training", "test": "testing"}[query.split]
            past += query.window[1] > query.duration
    assert past > 0
    for name in ("sta_train", "sta_test", "audiomatter_test"):
        path = all_kinds / "dataset/charades" / f"charades_{name}_tvr_format.jsonl"
        for row in map(json.loads, path.read_text().splitlines()):
            assert row["relevant_windows"][0][1] <= row["duration"]


def test_labels_recover_the_spans(record):
    """Rounding to tenths of a second must not move a moment to other clips than its features lie on."""
    clips = record_clips(record)
    columns = zip(*((q.window[0], q.window[1], q.duration, clips[q.vid]) for q in record.queries), strict=True)
    starts, ends, durations, counts = map(np.array, columns)
    ends = np.minimum(ends, durations)
    assert label_moments(starts, ends, counts, durations).tolist() == [list(q.span) for q in record.queries]


def record_clips(record) -> dict[str, int]:
    from img_deploy.training.synthetic.scenes import plan

    config = SyntheticConfig(**record.config)
    return {scene.vid: scene.clips for scene in plan(config, "charades")}


def test_activitynet(all_kinds):
    """The readers of the real files must meet the same keys, shapes and types here."""
    folder = all_kinds / "dataset/activitynet"
    parts = {name: json.loads((folder / f"{name}_qid.json").read_text()) for name in ("train", "val_1", "val_2")}
    numbers = []
    for part in parts.values():
        for video in part.values():
            assert video.keys() == {"duration", "timestamps", "sentences", "qid"}
            assert len(video["timestamps"]) == len(video["sentences"]) == len(video["qid"])
            numbers += [int(qid.removeprefix("qid_")) for qid in video["qid"]]
    assert numbers == list(range(len(numbers)))
    assert parts["val_1"].keys() == parts["val_2"].keys()
    assert not parts["train"].keys() & parts["val_1"].keys()
    shapes = {np.load(path).shape for path in (all_kinds / "features/activitynet/i3d_video").glob("*.npy")}
    assert {len(shape) for shape in shapes} == {2, 4}
    assert {shape[-1] for shape in shapes} == {1024}


def test_readers_take_every_kind(all_kinds):
    """Training and inference read synthetic data through the readers of the real data, or prove nothing about them."""
    from img_deploy.annotations import read_samples
    from img_deploy.durations import read_durations
    from img_deploy.features.folders import open_folder
    from img_deploy.features.kinds import kind_named

    record = read_synthetic(all_kinds)
    for task, video, audio, text, numbering in (
        ("charades", "i3d", "panns", None, "txt"),
        ("charades", "clip+sf", "panns", "clip", "txt"),
        ("charades", "iv2", "panns", "llama", "tvr"),
        ("activitynet", "i3d", "vggish", None, "json"),
    ):
        kinds = [kind_named(video), kind_named(audio), kind_named(text) if text else None]
        folder = open_folder(all_kinds / "features" / task, *kinds)
        queries = {qid: q for qid, q in record.by_qid(numbering).items() if q.task == task}
        assert {q.vid for q in queries.values()} <= set(folder.videos())
        for qid, query in queries.items():
            assert folder.has_audio(query.vid) is (query.audio != "none")
            features = folder.load(query.vid)
            assert features.video.shape[1] == kinds[0].width
            assert query.span[1] < len(features.video)
            if text is not None:
                assert folder.load_text(qid).shape == (len(query.query.split()) + 3, kinds[2].width)
    charades = all_kinds / "dataset/charades"
    samples = read_samples(charades / "charades_sta_test_qid.txt", read_durations(charades / "charades.json"))
    facts = record.by_qid("txt")
    assert [s.query for s in samples] == [facts[s.qid].query for s in samples]
    assert all(s.windows == (facts[s.qid].cut_window,) for s in samples)
    assert len(read_samples(all_kinds / "dataset/activitynet/val_1_qid.json")) > 0
    truth = read_samples(charades / "charades_audiomatter_test_tvr_format.jsonl")
    assert {record.by_qid("tvr")[s.qid].needs_sound for s in truth} == {True}


def test_kinds_on_disk_are_as_published(all_kinds):
    """File names, keys, widths and types of every kind; token features by the numbering of their own form."""
    features = all_kinds / "features/charades"
    queries = [query for query in read_synthetic(all_kinds).queries if query.task == "charades"]
    vid = queries[0].vid
    assert np.load(features / f"i3d_video/{vid}.npy").shape[1] == 1024
    assert vid in json.loads((features / "i3d_video/feature_shapes.json").read_text())
    assert np.load(features / f"clip_features/visual_features/{vid}.npy").shape[1] == 512
    with np.load(features / f"clip_features/slowfast_features/{vid}.npz") as archive:
        assert archive["features"].shape[1] == 2304
    clip_text = {path.name for path in (features / "clip_features/text_features").iterdir()}
    assert clip_text == {f"qid_{query.qids['txt']}.npy" for query in queries}
    llama = {path.name for path in (features / "iv2_features/llama2_txt").iterdir()}
    assert llama == {f"qid{query.qids['tvr']}.pt" for query in queries if "tvr" in query.qids}
    audio = [np.load(path) for path in (features / "audio").iterdir()]
    assert {(array.shape[1], array.dtype) for array in audio} == {(2048, np.dtype(np.float32))}


def test_glove_like_file(all_kinds):
    """It must hold the words of every sentence but one, others beside, and lines that a careful reader skips."""
    lines = (all_kinds / "features/glove.840B.300d.txt").read_text().splitlines()
    fields = [line.split(" ") for line in lines]
    whole = {row[0]: np.array(row[1:], dtype=float) for row in fields if len(row) == 301}
    assert sum(len(row) != 301 for row in fields) == 3
    used = {word for q in read_synthetic(all_kinds).queries for word in [*q.query.removesuffix(".").split(), "."]}
    assert used - whole.keys() <= {"zorblax"}
    assert "zorblax" not in whole
    assert len(whole.keys() - used) > 30

    def likeness(a, b):
        return whole[a] @ whole[b] / np.linalg.norm(whole[a]) / np.linalg.norm(whole[b])

    assert likeness("radio", "stereo") > 0.7
    assert abs(likeness("radio", "blender")) < 0.3


def test_a_failed_run_leaves_nothing(tmp_path, monkeypatch):
    """Half a dataset under its final name would train a model on what happens to be there."""

    def fail(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer_module, "write_glove", fail)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "out", SyntheticConfig(videos=8, video_width=4, audio_width=4))
    assert list(tmp_path.iterdir()) == []


def test_existing_folders_are_kept(tmp_path):
    """A user's folder must never be replaced; an earlier synthetic set only on request."""
    config = SyntheticConfig(videos=8, video_width=4, audio_width=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="no synthetic dataset"):
            write_synthetic(tmp_path / "mine", config, overwrite)
    assert (tmp_path / "mine/file").read_text() == "precious"
    (tmp_path / "out").mkdir()
    write_synthetic(tmp_path / "out", config)
    with pytest.raises(InputError, match="exists"):
        write_synthetic(tmp_path / "out", config)
    (tmp_path / "out/stale").write_text("")
    write_synthetic(tmp_path / "out", config, overwrite=True)
    assert not (tmp_path / "out/stale").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_link_stays_a_link_and_nothing_is_left_beside_it(tmp_path):
    """The link was replaced by the set, and lay beside it under a hidden name."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    write_synthetic(tmp_path / "link", SyntheticConfig(videos=8, video_width=4, audio_width=4))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "planted.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    """NumPy's error of a short write has no reason of the system's: the message would end in (None)."""
    monkeypatch.setattr(writer_module.np, "save", Mock(side_effect=OSError("8 requested and 0 written")))
    with pytest.raises(InputError, match=r"cannot be written \(8 requested and 0 written\)"):
        write_synthetic(tmp_path / "out", SyntheticConfig(videos=8, video_width=4, audio_width=4))


def test_the_current_folder_is_refused(tmp_path, monkeypatch):
    """A set that takes its place leaves the user's shell in a deleted folder, which looks empty."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="current folder"):
        write_synthetic(Path(), SyntheticConfig(videos=8, video_width=4, audio_width=4))


def test_a_set_of_few_training_videos(tmp_path):
    """Six training queries have no four rows to leave out of the second half: it was a traceback."""
    few = SyntheticConfig.small(videos=8, test_share=0.9, video_width=4, audio_width=4)
    assert write_synthetic(tmp_path / "out", few).queries == 24


def test_progress_and_summary(tmp_path):
    """A progress bar that stops short, or a summary that counts wrongly, misleads."""
    calls = []
    config = SyntheticConfig(videos=8, video_width=4, audio_width=4)
    summary = write_synthetic(tmp_path / "out", config, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(k, 8) for k in range(1, 9)]
    assert (summary.videos, summary.queries) == (8, 32)
    assert summary.size == sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())


@pytest.mark.parametrize("content", [None, "{}", "[]", "not json", '{"schema": 9, "config": {}, "queries": []}'])
def test_bad_sidecars_are_named(tmp_path, content):
    """Analysis on a folder that is no synthetic dataset must end in one clear line."""
    if content is not None:
        (tmp_path / "planted.json").write_text(content)
    with pytest.raises(AnnotationError, match=r"planted\.json"):
        read_synthetic(tmp_path)
