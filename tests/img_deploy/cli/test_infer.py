"""``img-deploy infer``: what it answers, in which form, and how it goes on after an interruption."""

import csv
import json
import os

import numpy as np
import pytest

from img_deploy.runtime import asking
from img_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from img_deploy.runtime.backends.torch.backend import TorchBackend
from img_deploy.runtime.predictor import load_bundle
from img_deploy.runtime.writers import RowWriter

VIDEOS = tuple("ABCDEF")


@pytest.fixture
def infer(run_cli, bundles, features):
    """Function: run infer on the six videos with the GloVe bundle (or another, by name)."""

    def run(*arguments, bundle="tiny_glove", folder=None):
        options = ("--bundle", bundles[bundle], "--backend", "torch", "--threads", 1)
        return run_cli("infer", folder or features.folder, *options, *arguments)

    return run


@pytest.fixture
def small_lots(monkeypatch):
    """Answers come out a batch at a time."""
    monkeypatch.setattr(asking, "LOT", 1)


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_jsonl_rows(infer, bundles, features):
    """A row would lack what an evaluator or a product reads, or hold another answer than the Python API gives."""
    done = infer("--query", "w001 w002", "--query", "w003", "--clip-seconds", 2, "--format", "jsonl", "--top-k", 2)
    assert done.code == 0
    found = rows(done.out)
    assert [(row["vid"], row["query"]) for row in found] == [(v, q) for v in VIDEOS for q in ("w001 w002", "w003")]
    engine = load_bundle(bundles["tiny_glove"], "torch")
    row = next(row for row in found if row["vid"] == "B")
    video = [np.load(features.folder / kind / "B.npy") for kind in ("video", "audio")]
    video_b = engine.encode_video(*video, vid="B")
    expected = engine.ground(video_b, engine.encode_query("w001 w002"), top_k=2, durations=40.0).to_row()
    assert row["spans"] == expected["spans"]
    assert (row["clips"], row["duration"], row["head"], row["qid"]) == (16, 40.0, "fused", None)
    assert row["importance"] == pytest.approx(expected["importance"], abs=3e-5)
    np.testing.assert_allclose(row["pred_relevant_windows"], expected["pred_relevant_windows"], atol=1e-4)
    assert {row["vid"]: row["head"] for row in found} == dict.fromkeys("ABDF", "fused") | dict.fromkeys("CE", "visual")
    assert all((row["importance"] is None) == (row["head"] == "visual") for row in found)


def test_what_a_backend_did_not_manage_is_told(infer, monkeypatch):
    """A graph that could not be captured would make every run slow without a word."""
    monkeypatch.setattr(TorchBackend, "notes", lambda _self: {"grounder: no CUDA graph": "out of memory"})
    done = infer("--query", "w001")
    assert done.code == 0
    assert "note: grounder: no CUDA graph: out of memory" in done.err.splitlines()


def test_formats_agree(infer, tmp_path):
    """A format would lose an answer, or hold other numbers than the others."""
    for name in ("a.jsonl", "a.csv", "a.json"):
        done = infer("--query", "w001 w002", "--out", tmp_path / name)
        assert (done.code, done.out) == (0, "")
    found = rows((tmp_path / "a.jsonl").read_text())
    assert json.loads((tmp_path / "a.json").read_text()) == found
    with open(tmp_path / "a.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["vid"] for line in table] == [row["vid"] for row in found] == list(VIDEOS)
    assert [[int(line["first_clip"]), int(line["last_clip"])] for line in table] == [row["spans"][0] for row in found]
    streamed = infer("--query", "w001 w002", "--format", "jsonl")
    assert rows(streamed.out) == found


def test_table_of_a_search_begins_with_the_best(infer):
    """Someone who looks for a moment in many videos would have to read the whole table."""
    done = infer("--query", "w001 w002", "--clip-seconds", "1.5")
    head, *lines = [line.split() for line in done.out.splitlines()]
    assert head[:3] == ["video", "start", "s"]
    lift = [float(line[6]) for line in lines]
    assert lift == sorted(lift, reverse=True)
    assert sorted(line[0] for line in lines) == list(VIDEOS)
    limited = infer("--query", "w001 w002", "--query", "w003", "--rows", 2).out.splitlines()
    assert len(limited) == 1 + 4 + 1
    assert limited[-1] == "and 8 rows more (--rows 0 shows all)"


def test_without_durations_it_says_so(infer):
    """Fractions would be taken for seconds."""
    done = infer("--query", "w001")
    assert "no durations: moments are given in clips and as fractions of the video" in done.err
    assert done.out.splitlines()[0].split()[:4] == ["video", "from", "to", "clips"]
    assert "%" in done.out
    row = rows(infer("--query", "w001", "--format", "jsonl").out)[0]
    assert row["duration"] is None
    assert "pred_relevant_windows" not in row


def test_durations_file(infer, write_lines):
    """Seconds would be of another video, or missing ones would be made up."""
    file = write_lines("lengths.csv", "vid,seconds", "A,30.5", "v_B,12", "F,7")
    done = infer("--query", "w001", "--durations", file, "--format", "jsonl")
    found = {row["vid"]: row["duration"] for row in rows(done.out)}
    assert found == {"A": 30.5, "B": 12.0, "C": None, "D": None, "E": None, "F": 7.0}
    assert "no duration of 3 of 6 videos (C, D, E)" in done.err


def test_annotation_file(infer, write_lines):
    """A submission would lack queries, carry other ids, or give windows in other units."""
    seconds = {"A": 22.0, "B": 21.0, "D": 23.0, "Z": 5.0}
    lines = [{"qid": n, "query": f"w00{n}", "vid": v, "duration": seconds[v]} for n, v in enumerate("BADBZ", 1)]
    done = infer("--queries", write_lines("test_tvr_format.jsonl", *lines), "--format", "jsonl")
    assert done.code == 0
    found = rows(done.out)
    assert [(row["qid"], row["vid"], row["duration"]) for row in found] == [
        (1, "B", 21.0),
        (4, "B", 21.0),
        (2, "A", 22.0),
        (3, "D", 23.0),
    ]
    assert "1 queries ask about 1 videos without features" in done.err
    assert infer("--queries", write_lines("x.jsonl", *lines), "--strict").code == 2
    txt = write_lines("test_qid.txt", "B 1.0 2.0##qid_9##w001.", "A 0.0 3.0##qid_8##w002.")
    found = rows(infer("--queries", txt, "--format", "jsonl", "--video", "A").out)
    assert [(row["qid"], row["vid"], row["query"]) for row in found] == [(8, "A", "w002.")]


def test_plain_queries_file(infer, write_lines):
    """A line of the file would not be asked of every video."""
    file = write_lines("queries.txt", "w001 w002", "", "w003")
    found = rows(infer("--queries", file, "--query", "w004", "--video", "B", "--format", "jsonl").out)
    assert [row["query"] for row in found] == ["w004", "w001 w002", "w003"]


def test_unknown_words_are_named(infer):
    """A query that the network does not understand would be answered without a word."""
    done = infer("--query", "zebra unicorn", "--video", "A")
    assert done.code == 0
    assert "warning: query 'zebra unicorn': none of its words is known (zebra, unicorn)" in done.err
    done = infer("--query", "w001 zebra", "--video", "A")
    assert "warning" not in done.err
    assert "1 queries have words that the vocabulary does not know (zebra), 0 of them no other words" in done.err
    many = [argument for number in range(9) for argument in ("--query", f"zebra{number}")]
    done = infer(*many, "--video", "A")
    assert done.err.count("warning: ") == 5
    assert "9 queries have words that the vocabulary does not know" in done.err


def test_glove_widens_the_vocabulary(infer, write_lines, tmp_path, monkeypatch):
    """--glove would do nothing, or change the answers of words that were known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    glove = write_lines(
        "glove.txt", *(f"{w} {' '.join(map(str, rng.standard_normal(300)))}" for w in ("zebra", "w001"))
    )
    done = infer("--query", "zebra", "--video", "A", "--glove", glove, "--format", "jsonl")
    assert done.code == 0
    assert "warning" not in done.err
    unknown = infer("--query", "zebra", "--video", "A", "--format", "jsonl")
    assert rows(done.out)[0]["fractions"] != rows(unknown.out)[0]["fractions"]
    known = ("--query", "w001", "--video", "A", "--format", "jsonl")
    assert infer(*known, "--glove", glove).out == infer(*known).out


def test_token_features(infer, features, write_lines, tmp_path):
    """Token bundles would answer from another query's features, or from none."""
    for qid in (4, 5):
        features.put(f"text/{qid}.npy", features.draw(qid, 18))
    file = write_lines("q.jsonl", *({"qid": qid, "query": f"does {qid}", "vid": "AB"[qid - 4]} for qid in (4, 5)))
    own = infer("--queries", file, "--format", "jsonl", bundle="tiny_vlm")
    assert [(row["vid"], row["qid"], row["query"]) for row in rows(own.out)] == [("A", 4, "does 4"), ("B", 5, "does 5")]
    elsewhere = tmp_path / "elsewhere"
    os.rename(features.folder / "text", elsewhere)
    given = infer("--queries", file, "--format", "jsonl", "--text-features", elsewhere, bundle="tiny_vlm")
    assert given.out == own.out
    assert infer("--queries", file, bundle="tiny_vlm").err.startswith("error: ")
    (elsewhere / "5.npy").unlink()
    done = infer("--queries", file, "--format", "jsonl", "--text-features", elsewhere, bundle="tiny_vlm")
    assert (done.code, len(rows(done.out))) == (0, 1)
    assert "skipped: " in done.err
    assert "no text features for query 5" in done.err


def test_raw_text_is_refused_by_token_bundles(infer, features):
    """A sentence would be answered by a network that cannot read it."""
    features.put("text/4.npy", features.draw(4, 18))
    done = infer("--query", "w001", bundle="tiny_vlm")
    assert done.code == 2
    assert done.err.startswith("error: queries: got sentences, expected queries with ids: this bundle takes plain")


def test_quiet(infer, features):
    """A script that asks for quiet would get notes between its own lines, or miss that a file was skipped."""
    assert infer("--query", "w001", "--quiet").err == ""
    features.put("video/A.npy", b"")
    done = infer("--query", "w001", "--quiet")
    assert done.err.count("\n") == 1
    assert done.err.startswith("skipped: ")


def test_a_bad_file_is_skipped_and_strict_stops(infer, features, tmp_path):
    """One bad file would end a run over thousands; or --strict would not notice it."""
    features.put("video/B.npy", features.draw(3, 24) * np.nan)
    features.put("audio/D.npy", b"no features at all")
    out = tmp_path / "out.jsonl"
    done = infer("--query", "w001", "--out", out)
    assert done.code == 0
    assert [row["vid"] for row in rows(out.read_text())] == ["A", "C", "E", "F"]
    assert done.err.count("skipped: ") == 2
    assert "4 of 6 pairs answered" in done.err
    assert "2 videos or queries skipped" in done.err
    done = infer("--query", "w001", "--out", tmp_path / "strict.jsonl", "--strict")
    assert done.code == 2
    assert not (tmp_path / "strict.jsonl").exists()
    assert done.err.splitlines()[-1].startswith("error: ")


@pytest.mark.usefixtures("small_lots")
@pytest.mark.parametrize("stop", [0, 1, 2])
def test_an_interrupted_run_resumes(infer, features, tmp_path, monkeypatch, stop):
    """Ctrl-C would lose what was computed, or --resume would repeat or lose rows."""
    features.put("video/C.npy", b"")
    arguments = ("--query", "w001 w002", "--query", "w003", "--batch-size", 2, "--out")
    assert infer(*arguments, tmp_path / "whole.jsonl").code == 0
    out, writes = tmp_path / "out.jsonl", []
    write = RowWriter.write

    def interrupt(self, answers):
        if len(writes) == stop:
            raise KeyboardInterrupt
        writes.append(len(answers))
        write(self, answers)

    monkeypatch.setattr(RowWriter, "write", interrupt)
    done = infer(*arguments, out)
    monkeypatch.setattr(RowWriter, "write", write)
    assert done.code == 130
    assert not out.exists()
    assert (tmp_path / "out.jsonl.partial").exists() == (stop > 0)
    assert ("run the same command with --resume to go on" in done.err) == (stop > 0)
    if stop:
        again = infer(*arguments, out)
        assert again.code == 2
        assert "pass --resume" in again.err
        assert "stopped:" not in again.err
        changed = infer(*arguments, out, "--resume", "--top-k", 2)
        assert changed.code == 2
        assert "was begun with top-k 1 (now 2)" in changed.err
    done = infer(*arguments, out, "--resume")
    assert done.code == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("out.jsonl.*"))


def test_resuming_a_finished_or_empty_run(infer, tmp_path):
    """--resume would fail where nothing was interrupted, or be accepted where it cannot work."""
    out = tmp_path / "out.jsonl"
    assert infer("--query", "w001", "--out", out, "--resume").code == 0
    first = out.read_bytes()
    assert infer("--query", "w001", "--out", out, "--resume").code == 0
    assert out.read_bytes() == first
    for arguments in (("--resume",), ("--resume", "--out", tmp_path / "a.csv")):
        done = infer("--query", "w001", *arguments)
        assert done.code == 2
        assert "only a jsonl file can be resumed" in done.err
    done = infer("--query", "w001", "--format", "table", "--out", out)
    assert done.code == 2
    assert "got a table to write" in done.err


def test_an_interrupted_table_shows_what_there_is(infer, monkeypatch, small_lots):  # noqa: ARG001
    """Ctrl-C would throw away answers that were computed."""
    from img_deploy.cli.answer_table import AnswerTable

    write = AnswerTable.write

    def interrupt(self, answers):
        if self.rows >= 2:
            raise KeyboardInterrupt
        write(self, answers)

    monkeypatch.setattr(AnswerTable, "write", interrupt)
    done = infer("--query", "w001", "--batch-size", 1)
    assert done.code == 130
    assert len(done.out.splitlines()) == 3


def test_sizes_of_videos(infer, new_features):
    """A video of a single clip, or a very long one, would be refused or end the run."""
    made = new_features("sizes")
    made.add("one", 1)
    made.add("long", 100_000, sound=False)
    made.put("audio/long.npy", made.draw(7, 20))
    made.add("other", 9)
    made.put("audio/other.npy", made.draw(250, 20))  # audio of another number of clips
    found = {row["vid"]: row for row in rows(infer("--query", "w001", "--format", "jsonl", folder=made.folder).out)}
    assert {vid: row["clips"] for vid, row in found.items()} == {"one": 1, "long": 16, "other": 9}
    assert found["one"]["spans"] == [[0, 0]]
    assert {row["head"] for row in found.values()} == {"fused"}


def test_backends_give_the_same_rows(run_cli, exported, features):
    """The answer would depend on what is installed."""
    found = {}
    for backend in ("torch", "onnxruntime", "auto"):
        options = ("--bundle", exported("tiny_glove"), "--backend", backend, "--threads", 1, "--format", "jsonl")
        queries = ("--query", "w001 w002", "--query", "w005", "--clip-seconds", 1)
        done = run_cli("infer", features.folder, *options, *queries)
        assert done.code == 0
        assert f"backend {'torch' if backend == 'torch' else 'onnxruntime'} on cpu, fp32" in done.err
        found[backend] = rows(done.out)
    assert found["auto"] == found["onnxruntime"]
    for mine, other in zip(found["torch"], found["onnxruntime"], strict=True):
        assert (mine["vid"], mine["query"], mine["spans"]) == (other["vid"], other["query"], other["spans"])
        assert mine["pred_relevant_windows"][0] == pytest.approx(other["pred_relevant_windows"][0], abs=1e-4)


@pytest.mark.usefixtures("small_lots")
def test_an_exported_bundle_resumes(run_cli, exported, features, tmp_path, monkeypatch):
    """ONNX Runtime's rows would differ between a run and its continuation."""
    options = ("--bundle", exported("tiny_glove"), "--query", "w001 w002", "--batch-size", 2, "--threads", 1, "--out")
    assert run_cli("infer", features.folder, *options, tmp_path / "whole.jsonl").code == 0
    load = OrtBackend.run
    runs = []

    def interrupt(self, graph, feeds):
        runs.append(graph)
        if runs.count("grounder") == 2:
            raise KeyboardInterrupt
        return load(self, graph, feeds)

    monkeypatch.setattr(OrtBackend, "run", interrupt)
    assert run_cli("infer", features.folder, *options, tmp_path / "out.jsonl").code == 130
    monkeypatch.setattr(OrtBackend, "run", load)
    assert (tmp_path / "out.jsonl.partial").stat().st_size > 0
    assert run_cli("infer", features.folder, *options, tmp_path / "out.jsonl", "--resume").code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
