"""Annotation files that cannot be scored: the row at fault is named, in one line."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from img_deploy.annotations import read_query_file, read_samples
from img_deploy.durations import read_durations

from .examples import ACTIVITYNET, ROW, TXT, lines, refusal, without, write


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("VID 1.0 2.0##a sentence without an id", "got no qid, expected 'VID START END##qid_N##sentence'"),
        ("VID 1.0##qid_3##words", "expected 'VID START END##qid_N##sentence'"),
        ("VID##qid_3##words", "got window []"),
        ("VID one 2.0##qid_3##words", "got window"),
        ("VID nan 2.0##qid_3##words", "got window"),
        ("VID 1.0 inf##qid_3##words", "got window"),
        ("VID 3.0 2.0##qid_3##words", "got the window 3.0 to 2.0 s"),
        ("VID 3.0 3.0##qid_3##words", "start before end"),
        ("VID -3.0 -1.0##qid_3##words", "start before end"),
        ("VID 1.0 2.0##qid_x##words", "got qid 'qid_x'"),
        ("VID 1.0 2.0##qid_-1##words", "got qid"),
        ("VID 1.0 2.0##qid_3##  ", "expected a sentence"),
        ("AMT7R 1.0 2.0##qid_12408##words", "got qid 12408 again, first at"),
        ("no marks at all", "got 'no marks at all'"),
    ],
)
def test_bad_txt_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """A mistake in one line of thousands could not be found."""
    text = refusal(read_samples, write(tmp_path, "a_qid.txt", TXT + "\n" + line + "\n"))
    assert text.startswith("a_qid.txt:4: ")
    assert message in text


def test_duplicate_ids_name_both_places(tmp_path: Path) -> None:
    """A submission would answer one of two questions twice."""
    text = refusal(read_samples, write(tmp_path, "a.jsonl", lines(ROW, {**ROW, "qid": 9}, {**ROW, "qid": "qid_7"})))
    assert text.startswith("a.jsonl:3: got qid 7 again")
    assert f"first at {tmp_path}/a.jsonl:1" in text
    twice = {"v_a": ACTIVITYNET["v_a"], "v_b": {**ACTIVITYNET["v_b"], "qid": ["qid_6"]}}
    text = refusal(read_samples, write(tmp_path, "a.json", twice))
    assert "video v_b, sentence 1: got qid 6 again" in text
    assert "video v_a, sentence 2" in text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without(ROW, "vid"), "got vid None"),
        (without(ROW, "query"), "got query None"),
        ({**ROW, "query": " "}, "expected a sentence"),
        ({**ROW, "query": "a \ud83d sits"}, "expected a sentence"),
        ({**ROW, "vid": 3}, "got vid 3"),
        ({**ROW, "qid": 1.5}, "got qid"),
        ({**ROW, "qid": True}, "got qid"),
        ({**ROW, "qid": "qid_"}, "got qid"),
        ({**ROW, "duration": 0}, "got duration 0"),
        ({**ROW, "duration": -3}, "got duration -3"),
        ({**ROW, "duration": float("nan")}, "got duration nan"),
        ({**ROW, "duration": float("inf")}, "got duration inf"),
        ({**ROW, "duration": True}, "got duration True"),
        ({**ROW, "duration": [3]}, "got duration [3]"),
        ({**ROW, "relevant_windows": [[1]]}, "got window [1]"),
        ({**ROW, "relevant_windows": [3, 4]}, "got window 3"),
        ({**ROW, "relevant_windows": {}}, "got relevant_windows {}"),
        ({**ROW, "relevant_windows": [[31, 32]]}, "in a video of 30.96 s"),
        ([ROW], "got a JSON list"),
    ],
)
def test_bad_json_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    """A mistake in one row of thousands could not be found, or be a KeyError."""
    path = write(tmp_path, "a.jsonl", lines({**ROW, "qid": 1}) + json.dumps(row) + "\n")
    text = refusal(read_samples, path)
    assert text.startswith("a.jsonl:2: ")
    assert message in text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"duration": 9.0, "actions": []}, "expected the lists timestamps, sentences, qid"),
        ({**ACTIVITYNET["v_b"], "qid": ["qid_1", "qid_2"]}, "got 1 timestamps, 1 sentences, 2 qid"),
        ({**ACTIVITYNET["v_b"], "duration": 0}, "got duration 0"),
        (without(ACTIVITYNET["v_b"], "duration"), "got no duration"),
        ({**ACTIVITYNET["v_b"], "timestamps": [[5, 4]]}, "sentence 1: got the window 5.0 to 4.0 s"),
        ({**ACTIVITYNET["v_b"], "sentences": [None]}, "sentence 1: got query None"),
        ([], "expected the lists"),
    ],
)
def test_bad_activitynet_entry_is_named(tmp_path: Path, entry: Any, message: str) -> None:
    """The video at fault could not be found among 15,000."""
    text = refusal(read_samples, write(tmp_path, "a.json", {"v_a": ACTIVITYNET["v_a"], "v_x": entry}))
    assert text.startswith("a.json: video v_x")
    assert message in text


def test_rows_without_a_moment_can_be_left_out(tmp_path: Path) -> None:
    """A training file with a few reversed moments could not be used at all, or would lose them unsaid."""
    entry = {**ACTIVITYNET["v_a"], "timestamps": [[9, 2], [13.79, 60]]}
    skipped: list[str] = []
    samples = read_samples(write(tmp_path, "train_qid.json", {"v_a": entry}), skipped=skipped)
    assert [s.qid for s in samples] == [6]
    assert len(skipped) == 1
    assert "video v_a, sentence 1: got the window 9.0 to 2.0 s" in skipped[0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", lines(ROW) + '{"qid": 8, "query"\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", "hello\n", "a.jsonl:1: not valid JSON"),
        ("a.json", '{\n"v_a": {\n"duration": 3,,\n', "a.json:3: not valid JSON"),
        ("a.json", "[1, 2]", "expected a JSON object"),
        ("a.json", '{"v_a": {}, "v_a": {}}', "the key 'v_a' occurs twice"),
        ("a.json", '{"v_a": ' + "[" * 100_000, "not usable JSON"),
        ("a.jsonl", '{"vid": "a", "query": "x", "qid": ' + "9" * 5000 + "}", "a.jsonl:1: not usable JSON"),
        ("a.txt", "", "got an empty file"),
        ("a.txt", "\n  \n", "got an empty file"),
        ("a.txt", "a question\n", "a.txt:1: got a line of plain text"),
        ("a.txt", b"A 1 2##qid_1##ok\nA 1 2##qid_2##caf\xe9\n", "a.txt:2: got bytes that are not UTF-8"),
        ("a.txt", "A 1 2##qid_1##ok\n".encode("utf-16-le"), "a.txt:1: got NUL bytes, expected text"),
        ("a.txt", b"A 1 2##qid_1##ok\n\0\0\0", "a.txt:2: got NUL bytes, expected text"),
        ("a.json", "{}", "got no annotations"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """A damaged file would end in a traceback."""
    assert message in refusal(read_samples, write(tmp_path, name, content))


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong path would end in a traceback."""
    for read in (read_samples, read_durations, read_query_file):
        assert "no such file" in refusal(read, tmp_path / "nothing.txt")
        (tmp_path / "folder").mkdir(exist_ok=True)
        assert "got a directory" in refusal(read, tmp_path / "folder")

    def deny(*_arguments: Any, **_options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "a.txt", TXT)
    monkeypatch.setattr(builtins, "open", deny)
    assert "no permission" in refusal(read_samples, path)
