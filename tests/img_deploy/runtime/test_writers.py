"""Output files: whole or not at all, and resumed without a row lost or repeated."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import nullcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import ImgDeployError, InputError
from img_deploy.runtime import partial_rows
from img_deploy.runtime.ranking import BestWriter
from img_deploy.runtime.row_formats import CSV_COLUMNS
from img_deploy.runtime.writers import RowWriter


def read_rows(path):
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


@pytest.fixture
def answers(make_answer):
    """Ten answers; some share the video, some the query, one has no qid and one no sound."""
    named = [make_answer(vid=f"v{n // 2}", qid=n, query=f"query {n % 3}") for n in range(8)]
    return [
        *named,
        make_answer(vid="v9", qid=None, query='a "quoted",\nbroken\u2028line é'),
        make_answer(vid="v8", head="visual", duration=None, qid=9),
    ]


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 0, 7]])
def test_jsonl(tmp_path, answers, sizes):
    """Rows are lost, reordered or changed on the way to the file, or other files are left."""
    out = tmp_path / "answers.jsonl"
    rest = list(answers)
    with RowWriter(out) as writer:
        for size in sizes:
            writer.write([rest.pop(0) for _ in range(size)])
            assert not out.exists()
    assert read_rows(out) == [answer.to_row() for answer in answers]
    assert writer.rows == len(answers)
    assert os.listdir(tmp_path) == ["answers.jsonl"]


def test_json(tmp_path, answers):
    """The file is not one JSON list."""
    out = tmp_path / "answers.json"
    for batches in ([], [[]], [answers], [[], answers[:3], [], answers[3:]]):
        with RowWriter(out, "json") as writer:
            for batch in batches:
                writer.write(batch)
        written = [answer.to_row() for batch in batches for answer in batch]
        assert json.loads(out.read_text()) == written
    assert os.listdir(tmp_path) == ["answers.json"]


def test_csv(tmp_path, answers):
    """A moment is missing, loses precision, or lands under another header."""
    out = tmp_path / "answers.csv"
    with RowWriter(out, "csv") as writer:
        writer.write(answers[:4])
        writer.write(answers[4:])
    with out.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == CSV_COLUMNS
    assert len(lines) == 2 * len(answers)
    for k, line in enumerate(lines):
        answer, rank = answers[k // 2], k % 2
        moment = answer.moments[rank]
        assert (line["vid"], line["query"], line["rank"]) == (answer.vid, answer.query, str(rank + 1))
        assert line["qid"] == ("" if answer.qid is None else str(answer.qid))
        assert (line["first_clip"], line["last_clip"]) == tuple(map(str, moment.span))
        assert (float(line["score"]), float(line["end_fraction"])) == (moment.score, moment.fraction[1])
        if moment.window:
            assert (float(line["start"]), float(line["end"])) == moment.window
        else:
            assert line["start"] == line["end"] == line["duration"] == line["importance"] == ""


@pytest.mark.parametrize("format", ["jsonl", "csv", "json"])
def test_standard_output(capfdbinary, answers, format):
    """Standard output gets other text than a file would."""
    with RowWriter(None, format) as writer:
        writer.write(answers)
    shown = capfdbinary.readouterr().out
    assert shown.count(b"query 2") == (4 if format == "csv" else 2)
    if format == "json":
        assert len(json.loads(shown)) == len(answers)


def test_standard_output_of_text_only(monkeypatch, answers):
    """In a notebook, whose standard output has no binary layer, writing fails."""
    import io

    text = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    with RowWriter("-") as writer:
        writer.write(answers)
    assert len(text.getvalue().splitlines()) == len(answers)


@pytest.mark.parametrize("format", ["jsonl", "csv", "json"])
def test_failure_leaves_the_old_file(tmp_path, answers, format):
    """A run that fails half-way destroys the result of the one before, or leaves a file that looks complete."""
    out = tmp_path / "answers"
    out.write_text("old")

    def fail_halfway():
        with RowWriter(out, format) as writer:
            writer.write(answers[:5])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert out.read_text() == "old"
    left = {"answers", "answers.partial", "answers.partial.settings"} if format == "jsonl" else {"answers"}
    assert set(os.listdir(tmp_path)) == left
    with RowWriter(out, format, resume=format == "jsonl") as writer:
        writer.write(answers[writer.rows :])
    assert "old" not in out.read_text()
    assert os.listdir(tmp_path) == ["answers"]


def test_failure_before_the_first_row_leaves_nothing(tmp_path):
    """A run that fails at once makes the next one ask for --resume."""
    with pytest.raises(RuntimeError), RowWriter(tmp_path / "a.jsonl"):
        raise RuntimeError
    assert not os.listdir(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_resume_after_any_cut(tmp_path, answers, data):
    """Some byte at which a kill tears the file makes a row be lost, repeated or damaged."""
    whole = "".join(json.dumps(answer.to_row()) + "\n" for answer in answers).encode()
    cut = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.sampled_from([b"", b"\0" * 40, b"\0" * 40 + b"\n"]))
    out = tmp_path / "answers.jsonl"
    out.unlink(missing_ok=True)
    (tmp_path / "answers.jsonl.partial").write_bytes(whole[:cut] + junk)
    with RowWriter(out, resume=True) as writer:
        left = [answer for answer in answers if answer.key not in writer.done]
        assert len(left) == len(answers) - whole[:cut].count(b"\n")
        writer.write(left)
    assert read_rows(out) == [answer.to_row() for answer in answers]
    assert os.listdir(tmp_path) == ["answers.jsonl"]


def test_resume_after_a_kill(tmp_path, answers):
    """A process killed outright loses batches that it has written."""
    out = tmp_path / "answers.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(
            f"""
            import numpy as np
            from img_deploy.runtime.results import Answer, moments_of
            from img_deploy.runtime.writers import RowWriter
            writer = RowWriter({str(out)!r}, settings={{"top_k": 1}})
            for n in range(3):
                moments = moments_of([(0, 1, 0.5)], 4, 10.0)
                writer.write([Answer(f"v{{n}}", "q", n, "visual", 4, 10.0, None, moments, np.zeros(4, "f"))])
            print("ready", flush=True)
            input()
            """
        )],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == b"ready\n"
    with pytest.raises(InputError, match="another run is writing"):
        RowWriter(out, resume=True, settings={"top_k": 1})
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with RowWriter(out, resume=True, settings={"top_k": 1}) as writer:
        assert writer.done == {(f"v{n}", n, "q") for n in range(3)}
        writer.write(answers)
    assert [row["vid"] for row in read_rows(out)] == ["v0", "v1", "v2", *(answer.vid for answer in answers)]


def test_rows_of_an_interrupted_run_are_not_overwritten(tmp_path, answers):
    """Hours of work are lost by repeating a command without --resume."""
    out = tmp_path / "answers.jsonl"
    writer = RowWriter(out)
    writer.write(answers[:5])
    writer.abandon()
    before = (tmp_path / "answers.jsonl.partial").read_bytes()
    with pytest.raises(InputError, match="--resume"):
        RowWriter(out)
    assert (tmp_path / "answers.jsonl.partial").read_bytes() == before


@pytest.mark.parametrize("changed", ["done", "open", "gone"])
def test_resume_with_changed_features(tmp_path, answers, changed):
    """Rows about old and new features of a video would stand in one file; or a file mended since would stop the run."""
    out = tmp_path / "answers.jsonl"
    sources = {answer.vid: "old" for answer in answers} | {"broken": "old"}
    writer = RowWriter(out, settings={"top_k": 1}, sources=sources)
    writer.write(answers[:1])
    writer.abandon()
    vid = answers[0].vid
    now = {"done": sources | {vid: "new"}, "open": sources | {"broken": "mended"}, "gone": {"broken": "old"}}[changed]
    if changed == "open":
        with RowWriter(out, resume=True, settings={"top_k": 1}, sources=now) as again:
            assert len(again.done) == 1
        return
    with pytest.raises(InputError, match=f"the features of {vid} changed since it was begun; remove it to start over"):
        RowWriter(out, resume=True, settings={"top_k": 1}, sources=now)


def test_resume_with_other_settings(tmp_path, answers):
    """One file holds the answers of two bundles or of two values of top-k."""
    out = tmp_path / "answers.jsonl"
    writer = RowWriter(out, settings={"bundle": "abc", "top_k": 1})
    writer.write(answers[:5])
    writer.abandon()
    with pytest.raises(InputError, match=r"top_k 1 \(now 5\)"):
        RowWriter(out, resume=True, settings={"bundle": "abc", "top_k": 5})
    (tmp_path / "answers.jsonl.partial.settings").write_text("{")
    with pytest.raises(InputError, match="not a JSON object"):
        RowWriter(out, resume=True, settings={"bundle": "abc", "top_k": 1})
    (tmp_path / "answers.jsonl.partial.settings").unlink()
    with RowWriter(out, resume=True, settings={"bundle": "abc", "top_k": 1}) as writer:
        assert writer.rows == 5


@pytest.mark.parametrize("line", [b"not json\n", b"[]\n", b'{"vid": 1, "qid": 1, "query": ""}\n', b"\n", b"\xff\n"])
def test_a_partial_file_of_something_else(tmp_path, answers, line):
    """Rows after a damaged line are dropped, or the damage is carried into the result."""
    out = tmp_path / "answers.jsonl"
    partial = tmp_path / "answers.jsonl.partial"
    row = json.dumps(answers[0].to_row()).encode() + b"\n"
    partial.write_bytes(row + line + row)
    with pytest.raises(InputError, match="line 2"):
        RowWriter(out, resume=True)
    assert partial.read_bytes() == row + line + row


def test_resume_without_an_interrupted_run(tmp_path, answers):
    """A first run with --resume fails, or a finished file is taken for a part."""
    out = tmp_path / "answers.jsonl"
    for _ in range(2):
        with RowWriter(out, resume=True) as writer:
            assert not writer.done
            writer.write(answers)
    assert len(read_rows(out)) == len(answers)


@pytest.mark.parametrize("format", ["jsonl", "csv", "json"])
def test_places_that_cannot_be_written(tmp_path, format):
    """The error comes after hours of work, or as a traceback."""
    (tmp_path / "file").write_text("")
    for out, message in (
        (tmp_path, "got a folder"),
        (tmp_path / "none" / "out", "no folder"),
        (tmp_path / "file" / "out", "no folder"),
        (tmp_path / ("x" * 300), "cannot be written"),
        ("/proc/answers", "cannot be written"),
    ):
        with pytest.raises(InputError, match=message) as refusal:
            RowWriter(out, format)
        assert "\n" not in str(refusal.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    """A missing right shows only at the end."""
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        RowWriter(tmp_path / "out")


def test_options_that_do_not_go_together(tmp_path):
    """--resume is silently ignored where it cannot work."""
    for out, format in ((tmp_path / "a.csv", "csv"), (tmp_path / "a.json", "json"), (None, "jsonl"), ("-", "jsonl")):
        with pytest.raises(InputError, match="resume"):
            RowWriter(out, format, resume=True)
    with pytest.raises(InputError, match="jsonl, csv, json"):
        RowWriter(None, "xml")
    with pytest.raises(InputError, match="regular file"):
        RowWriter("/dev/null", resume=True)


def test_devices_stay_devices(answers):
    """--out /dev/null puts a file in the place of the device; a full disk ends in a traceback."""
    with RowWriter("/dev/null") as writer:
        writer.write(answers)
    assert not os.path.isfile("/dev/null")
    with pytest.raises(ImgDeployError, match="No space left"), RowWriter("/dev/full") as writer:
        writer.write(answers)


def test_link_is_followed(tmp_path, answers):
    """A link to a file elsewhere is replaced by a file."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "out.jsonl")
    with RowWriter(tmp_path / "link") as writer:
        writer.write(answers)
    assert (tmp_path / "link").is_symlink()
    assert len(read_rows(tmp_path / "there" / "out.jsonl")) == len(answers)


def test_rows_of_a_query_that_is_not_unicode(tmp_path, make_answer):
    """Bytes of another encoding in a query end the run in the middle."""
    strange = make_answer(query="caf\udce9")
    for format in ("jsonl", "csv", "json"):
        with RowWriter(tmp_path / "out", format) as writer:
            writer.write([strange])
        assert b"udce9" in (tmp_path / "out").read_bytes()


def test_a_disk_that_is_full_before_the_first_row(tmp_path, monkeypatch):
    """An empty file would be left, and called the answers so far."""

    def full(path, _text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(partial_rows, "write_text", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left"):
        RowWriter(tmp_path / "a.jsonl")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_an_interrupted_ranking_leaves_no_file(tmp_path, answers, name, monkeypatch):
    """A ranking cannot be resumed, so what is left of one would stand in the way of the next."""
    out = tmp_path / name

    def full(_self, _answers):
        raise ImgDeployError("full")

    for write, reason in ((RowWriter.write, KeyboardInterrupt), (full, None)):
        monkeypatch.setattr(RowWriter, "write", write)
        writer = BestWriter(RowWriter(out, out.suffix[1:], resumable=False), 3)
        writer.__enter__()
        writer.write(answers)
        with pytest.raises(ImgDeployError, match="full") if write is full else nullcontext():
            writer.__exit__(reason, None, None)
        assert os.listdir(tmp_path) == []
