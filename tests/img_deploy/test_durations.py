import json
from pathlib import Path
from typing import Any

import pytest

from img_deploy.durations import read_durations
from img_deploy.errors import AnnotationError

ACTIVITYNET = {
    "v_a": {"duration": 55.15, "timestamps": [[0.28, 55.15]], "sentences": ["A tutorial."], "qid": ["qid_5"]},
    "v_b": {"duration": 9, "timestamps": [[-1, 3]], "sentences": ["Then this."], "qid": ["qid_7"]},
}


def write(tmp_path: Path, name: str, content: Any) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else b"")
    if not isinstance(content, bytes):
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", newline="")
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def refusal(path: Path) -> str:
    """The one line with which reading ends, without the folder."""
    with pytest.raises(AnnotationError) as caught:
        read_durations(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(f"{path.parent}/")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("charades.json", {"a": {"subset": "train", "duration": 23.5, "actions": [[1, 2.0, 3]]}, "b": {"duration": 8}}),
        ("plain.json", {"a": 23.5, "b": 8}),
        ("tvr.jsonl", lines(*({"vid": v, "duration": d} for v, d in (("a", 23.5), ("b", 8), ("a", 23.5))))),
        ("tvr.json", lines({"vid": "a", "duration": 23.5, "query": "x"}, {"vid": "b", "duration": 8})),
        ("durations.csv", "a,23.5\nb,8\n"),
        ("durations.csv", "vid,seconds\na, 23.5\n\nb,8\n"),
        ("durations.txt", '"a",23.5\nb,"8"\na,23.5\n'),
        ("durations.csv", "vid;seconds\na;23,5\nb;8\n"),
        ("durations.csv", "a;23.5\nb;8,0\n"),
        ("durations.tsv", "vid\tduration\na\t23.5\nb\t8\n"),
        ("durations.tsv", "a\t23,5\nb\t8\n"),
        ("durations.txt", "a 23.5\nb   8\n"),
        ("durations.csv", "vid,seconds\ra,23.5\rb,8\r"),
        ("durations.csv", b"\xef\xbb\xbfvid,seconds\r\na,23.5\r\nb,8\r\n"),
        ("durations.csv", "\ufeffa,23.5\nb,8\n".encode("utf-16-le")),
    ],
)  # fmt: skip
def test_durations(tmp_path: Path, name: str, content: Any) -> None:
    """A file that tells how long videos are would be refused or read wrongly."""
    assert read_durations(write(tmp_path, name, content)) == {"a": 23.5, "b": 8.0}


def test_durations_of_activitynet(tmp_path: Path) -> None:
    """ActivityNet's annotation file would not serve as its duration file."""
    assert read_durations(write(tmp_path, "val_1_qid.json", ACTIVITYNET)) == {"v_a": 55.15, "v_b": 9.0}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", "a,23.5\nb,0\n", "d.csv:2: got duration 0"),
        ("d.csv", "a,23.5\nb,-1\n", "d.csv:2: got duration -1"),
        ("d.csv", "a,nan\n", "d.csv:1: got duration nan"),
        ("d.csv", "a,inf\n", "d.csv:1: got duration inf"),
        ("d.csv", "a,long\n", "d.csv:1: got duration long"),
        ("d.csv", "a,\n", "d.csv:1: got duration"),
        ("d.csv", "a" * 200_000 + ",1\n", "d.csv:1: got 'aaaa"),
        ("d.csv", "a\n", "d.csv:1: got 'a', expected 'vid,seconds'"),
        ("d.csv", "a,1,2\n", "d.csv:1: got 'a,1,2'"),
        ("d.csv", "a;1;2\n", "d.csv:1: got 'a;1;2'"),
        ("d.csv", "a\t1.234,5\n", "d.csv:1: got duration 1.234.5"),
        ("d.csv", ",1\n", "d.csv:1: got ',1'"),
        ("d.csv", "vid,seconds\n", "got no durations"),
        ("d.csv", "a,1\nvid,seconds\n", "d.csv:2: got duration seconds"),
        ("d.csv", "a,1\nb,2\na,3\n", "d.csv:3: got 3.0 s for video 'a', expected 1.0 s"),
        ("d.csv", "", "got no durations"),
        ("d.json", {"a": {"duration": 0}}, "d.json: video a: got duration 0"),
        ("d.json", {"a": {"subset": "x"}}, "d.json: video a: got no duration"),
        ("d.json", {"a": None}, "d.json: video a: got no duration"),
        ("d.json", "{}", "got no durations"),
        ("d.json", "[]", "expected a JSON object"),
        ("d.jsonl", lines({"vid": "a", "duration": 2}, {"vid": "b"}), "d.jsonl:2: got no duration"),
        ("d.jsonl", lines({"vid": "a", "duration": 2}, {"vid": "a", "duration": 3}), "d.jsonl:2: got 3.0 s"),
    ],
)
def test_bad_durations(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """A moment in seconds would be computed from a duration of 0, below 0, unknown, or of two minds."""
    assert message in refusal(write(tmp_path, name, content))
