"""Indexes: rows that answer as the features do, and renewed by what changed alone."""

import json
import os
import shutil

import fsspec
import numpy as np
import pytest

from img_deploy.errors import FeatureError, InputError
from img_deploy.features import open_folder
from img_deploy.runtime import indexing
from img_deploy.runtime.index import VideoIndex
from img_deploy.runtime.indexing import index_folder
from img_deploy.runtime.library import load_index
from img_deploy.runtime.workers import ThisProcess
from img_deploy.runtime.writers import RowWriter

pytest.importorskip("lance", reason="Lance is not installed")


def rows(run_cli, *arguments):
    done = run_cli("infer", *arguments, "--format", "jsonl", "--backend", "torch", "--threads", 1, "--quiet")
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.mark.parametrize(
    "asked", [["-q", "w001 w002"], ["-q", "w001", "-q", "zebra w003", "--top-k", 3], ["-q", "w001", "--video", "B"]]
)
def test_answers_are_those_of_the_features(run_cli, bundles, features, indexed, asked):
    """An index would answer otherwise than the features it was made of, in the last digit of a row or in its order."""
    indexed()
    bundle = ("--bundle", bundles["tiny_glove"], "--clip-seconds", 2)
    assert rows(run_cli, indexed.path, *asked, *bundle) == rows(run_cli, features.folder, *asked, *bundle)


def test_features_and_index_in_object_storage(run_cli, bundles, features, predictor, tmp_path):
    """A library in a bucket would answer otherwise than one on a disk, or be encoded anew at each run."""
    memory = fsspec.filesystem("memory")
    memory.put(str(features.folder), "/bucket/features", recursive=True)
    place = f"file-object-store://{tmp_path}/library"  # through Lance's client of object stores
    rules = predictor.rules
    for expected in ((6, 0), (0, 6)):
        folder = open_folder("memory://bucket/features", rules.video, rules.audio, max_clips=rules.max_clips)
        done = index_folder(folder, ThisProcess(predictor), place)
        assert (done.added, done.kept) == expected
    asked = ("-q", "w001 w002", "--bundle", bundles["tiny_glove"], "--clip-seconds", 2)
    local = rows(run_cli, features.folder, *asked)
    assert rows(run_cli, "memory://bucket/features", *asked) == local
    assert rows(run_cli, place, *asked) == local
    memory.rm("/", recursive=True)


def test_half_precision_answers_alike(run_cli, bundles, features, indexed):
    """Rounding would move a moment, or the option would do nothing."""
    indexed(store="fp16")
    bundle = ("--bundle", bundles["tiny_glove"], "-q", "w001 w002")
    found, expected = (rows(run_cli, place, *bundle) for place in (indexed.path, features.folder))
    assert [row["spans"] for row in found] == [row["spans"] for row in expected]
    scores = [[row["fractions"][0][2] for row in one] for one in (found, expected)]
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)
    assert scores[0] != scores[1]


def test_only_what_changed_is_encoded(indexed, features, predictor, monkeypatch):
    """Adding 1,000 videos to 20,000 would encode 21,000; or a changed file would go on answering as it was."""
    first = indexed()
    assert (first.added, first.kept, first.skipped) == (6, 0, 0)
    encoded = []
    encode = predictor.encode_features

    def watched(videos, *rest):
        encoded.extend(one.vid for one in videos)
        return encode(videos, *rest)

    monkeypatch.setattr(predictor, "encode_features", watched)
    assert (indexed().kept, encoded) == (6, [])
    features.add("G", 9)
    features.add("B", 12)
    (features.folder / "video" / "D.npy").touch()
    os.remove(features.folder / "audio" / "F.npy")
    second = indexed()
    assert (second.added, second.changed, second.kept) == (1, 2, 4)
    assert sorted(encoded) == ["B", "F", "G"]
    index = VideoIndex.open(indexed.path, predictor.bundle)
    assert index.videos() == list("ABCDEFG")
    assert (index.clips("B"), index.has_audio("F")) == (12, False)
    folder = open_folder(features.folder, predictor.rules.video, predictor.rules.audio, max_clips=16)
    for vid, kept in zip(index.videos(), index.encoded(index.videos()), strict=True):
        [fresh] = encode([folder.load(vid)])
        np.testing.assert_allclose(kept.visual_clips, fresh.visual_clips, atol=1e-5)
        assert (kept.audio_clips is None) == (fresh.audio_clips is None)
    encoded.clear()
    assert (indexed().kept, encoded) == (7, [])


def test_many_files_are_merged(indexed, predictor, monkeypatch):
    """A library of a million videos would lie in thousands of files, each opened at every question."""
    monkeypatch.setattr(indexing, "COMMIT_SECONDS", 0.0)
    indexed(batch_size=1)
    dataset = VideoIndex.open(indexed.path, predictor.bundle).dataset
    assert len(dataset.get_fragments()) == 6
    before = dataset.to_table().to_pylist()
    monkeypatch.setattr(indexing, "MOST_FILES", 5)
    assert indexed().kept == 6
    dataset = VideoIndex.open(indexed.path, predictor.bundle).dataset
    assert len(dataset.get_fragments()) == 1
    assert dataset.to_table().to_pylist() == before


def test_durations_are_kept_and_renewed(indexed, features, predictor):
    """Moments of an index would have no seconds, or those of an old file."""
    indexed(durations={"A": 10.0, "B": 20.0})
    features.add("A", 12)
    indexed(durations={"B": 25.0, "C": 5.0})
    assert VideoIndex.open(indexed.path, predictor.bundle).durations() == {"A": 10.0, "B": 25.0, "C": 5.0}


def test_durations_of_other_videos_are_told(run_cli, features, indexed, bundles, tmp_path):
    """A file of another set would leave an index without seconds in silence, or a file that nobody gave be named."""
    told, files = "none of its 1 ids (e.g. A) is that of a video (e.g. B)", (features.folder, indexed.path)
    os.remove(features.folder / "video" / "A.npy")
    (tmp_path / "other.txt").write_text("A,10\n")
    common = ("--bundle", bundles["tiny_glove"], "--backend", "torch", "--threads", 1)
    assert told in run_cli("index", files[0], "--out", files[1], "--durations", tmp_path / "other.txt", *common).err
    for path in files:
        assert told in run_cli("infer", path, "-q", "w001", "--durations", tmp_path / "other.txt", *common).err
    indexed(durations={"C": 5.0})
    assert "none of" not in run_cli("infer", files[1], "-q", "w001", "--video", "B", *common).err


def test_vanished_videos_are_told_and_dropped_when_asked(indexed, features):
    """Answers about deleted videos would go on without a word, or an unmounted folder would empty the index."""
    indexed()
    os.remove(features.folder / "video" / "A.npy")
    kept = indexed()
    assert (kept.vanished, kept.pruned) == (("A",), False)
    assert indexed(prune=True).pruned
    assert indexed().vanished == ()


def test_a_bad_video_is_left_out(indexed, features, predictor, ears):
    """One broken file among thousands would end the run."""
    features.put("video/X.npy", b"")
    features.put("video/Y.npy", np.full((4, 24), np.nan, np.float32))
    features.put("video/Z.npy", np.full((4, 24), 3e38, np.float32))
    heard = ears()
    done = indexed(listener=heard)
    assert (done.added, done.skipped) == (6, 3)
    assert [sum(name in error for error in heard.errors) for name in ("X.npy", "Y.npy", "Z")] == [1, 1, 1]
    with pytest.raises(FeatureError, match="no video 'X' among 6"):
        VideoIndex.open(indexed.path, predictor.bundle).entry("X")


def test_a_bad_video_is_told_of_at_each_run(indexed, features, ears):
    """Once its duration is told, a video whose features are broken would count as unchanged."""
    indexed()
    features.put("video/B.npy", b"")
    for durations in ({"B": 20.0}, None):
        heard = ears()
        assert indexed(listener=heard, durations=durations).skipped == 1
        assert "B.npy" in heard.errors[0]


def test_an_id_that_is_no_text_is_left_out(indexed, features, ears):
    """A file whose name is not UTF-8 would end the run with a traceback: a table of Lance cannot hold it."""
    features.add("caf\udce9")
    heard = ears()
    assert indexed(listener=heard).added == 6
    assert heard.errors == ["'caf\\udce9': got an id that is no UTF-8 text; rename its files"]


def test_values_beyond_half_precision_are_not_kept(indexed, predictor, monkeypatch, ears):
    """They would become infinite in the index and give no answer, or a wrong one."""
    encode = predictor.encode_features

    def loud(videos, *rest):
        made = encode(videos, *rest)
        for one in made:
            if one.vid == "B":
                one.visual_clips[0, 0] = 1e6
        return made

    monkeypatch.setattr(predictor, "encode_features", loud)
    heard = ears()
    assert indexed(store="fp16", listener=heard).added == 5
    assert heard.errors == ["B: its encoding has values beyond fp16; index with --store fp32"]


def test_another_bundle_or_store_is_refused(indexed, checkpoints, make_bundle, tmp_path):
    """Encodings of one network would be answered by another."""
    indexed()
    weights = {name: tensor + 0.01 for name, tensor in checkpoints["tiny_glove"].weights.items()}
    other = make_bundle(tmp_path / "other", checkpoints["tiny_glove"], weights)
    with pytest.raises(InputError, match="made with another bundle's network"):
        load_index(indexed.path, other, "torch")
    with pytest.raises(InputError, match="holds fp32, got --store fp16"):
        indexed(store="fp16")


def test_best_moments_of_a_library(indexed, bundles):
    """The ranking would miss a better moment, or favour short videos."""
    indexed()
    library = load_index(indexed.path, bundles["tiny_glove"], "torch", threads=1)
    answers = list(library.ask("w001 w002", top_k=3))
    every = sorted((answer.lift(moment) for answer in answers for moment in answer.moments), reverse=True)
    for count in (1, 4, 100):
        best = library.best("w001 w002", count, top_k=3)
        assert [answer.lift(answer.best) for answer in best] == every[:count]
        assert [answer.rank for answer in best] == list(range(1, len(best) + 1))
    assert {answer.vid for answer in library.ask(["w001", "w002"], videos=["A", "B"])} == {"A", "B"}
    with pytest.raises(FeatureError, match="no video 'Q'"):
        library.ask("w001", videos=["Q"])


def test_a_library_is_asked_about_no_other_videos(indexed, bundles):
    """A generator of ids, or an empty list, would ask all videos; a single id would be taken letter by letter."""
    indexed()
    library = load_index(indexed.path, bundles["tiny_glove"], "torch", threads=1)
    for videos in ((vid for vid in "AB"), {"A": 1, "B": 2}.keys(), np.array(["A", "B"])):
        assert [answer.vid for answer in library.ask("w001", videos=videos)] == ["A", "B"]
    assert [answer.vid for answer in library.best("w001", 3, videos="A")] == ["A"]
    for options, told in (({"videos": []}, "got none"), ({"videos": [3]}, "videos: got 3"), ({"nms": 2}, "nms: got 2")):
        with pytest.raises(InputError, match=told):
            library.ask("w001", **options)


@pytest.mark.parametrize("form", ["jsonl", "csv", "table"])
def test_best_moments_on_the_command_line(run_cli, indexed, bundles, form):
    """``--best`` would give an answer per video, or another order."""
    indexed()
    asked = (indexed.path, "-q", "w001", "--best", 2, "--bundle", bundles["tiny_glove"], "--backend", "torch")
    done = run_cli("infer", *asked, "--format", form)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == (2 if form == "jsonl" else 3)
    if form == "jsonl":
        first, second = map(json.loads, lines)
        assert (first["rank"], second["rank"]) == (1, 2)
        assert first["times_chance"] >= second["times_chance"]


def test_a_run_does_not_go_on_with_another_store(indexed, run_cli, bundles, monkeypatch, tmp_path):
    """Rows of rounded and of unrounded encodings would stand in one file."""
    indexed()
    asked = ("infer", indexed.path, "--bundle", bundles["tiny_glove"], "-q", "w001", "--backend", "torch")
    output = ("--batch-size", 2, "--out", tmp_path / "rows.jsonl")
    write = RowWriter.write

    def interrupted(self, answers):
        write(self, answers)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "write", interrupted)
        assert run_cli(*asked, *output).code == 130
    shutil.rmtree(indexed.path)
    indexed(store="fp16")
    done = run_cli(*asked, *output, "--resume")
    assert done.code == 2
    assert "was begun with store 'fp32' (now 'fp16')" in done.err


def test_token_features_lie_elsewhere(run_cli, bundles, features, tmp_path):
    """Each query would be skipped for a reason that names no option."""
    library = tmp_path / "library"
    bundle = ("--bundle", bundles["tiny_vlm"], "--backend", "torch")
    assert run_cli("index", features.folder, *bundle, "--out", library).code == 0
    (tmp_path / "x_qid.txt").write_text("A 0 5##qid_3##a sentence\n")
    done = run_cli("infer", library, *bundle, "--queries", tmp_path / "x_qid.txt")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "give --text-features FOLDER" in done.err
