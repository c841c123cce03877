"""Annotation files as they are published: every format means the same."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.annotations import Sample, read_query_file, read_samples

from .examples import ACTIVITYNET, OTHER_SYSTEMS, ROW, TXT, lines, refusal, write


def test_txt_lines(tmp_path: Path) -> None:
    """Charades-STA's own annotation lines would be read wrongly."""
    path = write(tmp_path, "charades_sta_test_qid.txt", TXT)
    assert read_query_file(path).format == "txt"
    assert read_samples(path) == [
        Sample(12408, "3MSZA", "person turn a light on.", None, ((24.3, 30.4),)),
        Sample(12412, "AMT7R", "a ## b", None, ((4.3, 12.5),)),
    ]


def test_txt_lines_with_durations(tmp_path: Path) -> None:
    """Moments that end past their video (562 rows of Charades' test set) would not be cut to it."""
    path = write(tmp_path, "a_qid.txt", TXT)
    samples = read_samples(path, {"3MSZA": 29.0, "AMT7R": 40.0})
    assert [(s.duration, s.windows) for s in samples] == [(29.0, ((24.3, 29.0),)), (40.0, ((4.3, 12.5),))]
    assert refusal(read_samples, path, {"3MSZA": 30.0}).startswith("a_qid.txt:2: no duration for video 'AMT7R'")
    assert refusal(read_samples, path, {"3MSZA": 0.0}).startswith("a_qid.txt:1: got duration 0.0")


@pytest.mark.parametrize("name", ["a_tvr_format.jsonl", "charades_audiomatterhao_tvr_format.json", "a.txt"])
def test_tvr_json_lines(tmp_path: Path, name: str) -> None:
    """JSON lines under another ending, as one published file has them, would be refused."""
    path = write(tmp_path, name, lines(ROW, {**ROW, "qid": 8, "relevant_windows": [[1, 2], [3, 99]]}))
    assert read_query_file(path).format == "jsonl"
    assert read_samples(path) == [
        Sample(7, "3MSZA", "person turns.", 30.96, ((24.3, 30.4),)),
        Sample(8, "3MSZA", "person turns.", 30.96, ((1.0, 2.0), (3.0, 30.96))),
    ]


def test_a_single_json_line(tmp_path: Path) -> None:
    """A .json file of one row would be taken for a table of videos."""
    assert read_samples(write(tmp_path, "one.json", lines(ROW)))[0].qid == 7


@pytest.mark.parametrize("indent", [None, 2])
def test_activitynet_json(tmp_path: Path, indent: int | None) -> None:
    """ActivityNet's annotations would be read wrongly, or only when written on one line."""
    path = write(tmp_path, "val_1_qid.json", json.dumps(ACTIVITYNET, indent=indent))
    assert read_query_file(path).format == "activitynet"
    assert read_samples(path) == [
        Sample(5, "v_a", "A tutorial.", 55.15, ((0.28, 55.15),)),
        Sample(6, "v_a", "The coach helps.", 55.15, ((13.79, 55.15),)),
        Sample(7, "v_b", "Then this.", 9.0, ((0.0, 3.0),)),
    ]


def test_queries_alone(tmp_path: Path) -> None:
    """Questions about videos that nobody annotated could not be asked from a file."""
    path = write(tmp_path, "q.jsonl", lines({"vid": "a", "query": "one"}, {"vid": "b", "query": "two", "duration": 4}))
    assert read_samples(path) == [Sample(0, "a", "one", None, ()), Sample(1, "b", "two", 4.0, ())]
    assert [s.duration for s in read_samples(path, {"a": 3.0, "b": 9.0})] == [3.0, 4.0]


def test_running_numbers_pass_over_given_ids(tmp_path: Path) -> None:
    """A row without an id would get one that another row carries."""
    rows = ({"vid": "a", "query": "x"}, {"vid": "a", "query": "y", "qid": "qid_1"}, {"vid": "a", "query": "z"})
    assert [s.qid for s in read_samples(write(tmp_path, "q.jsonl", lines(*rows)))] == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.floats(-5, 50).map(lambda x: round(x, 2)),
            st.floats(0.5, 60).map(lambda x: round(x, 2)),
            st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).filter(str.strip),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_the_three_formats_agree(tmp_path: Path, rows: list[tuple[float, float, str]]) -> None:
    """The same annotation would mean something else in another file format, or a sentence break its line."""
    duration = 55.5
    samples = [
        Sample(number, f"v_{number}", query.strip(), duration, ((max(start, 0.0), min(start + length, duration)),))
        for number, (start, length, query) in enumerate(rows)
    ]
    txt = "".join(f"v_{n} {s} {s + w}##qid_{n}##{q}\n" for n, (s, w, q) in enumerate(rows))
    tvr = lines(
        *(
            {"qid": n, "query": q, "duration": duration, "vid": f"v_{n}", "relevant_windows": [[s, s + w]]}
            for n, (s, w, q) in enumerate(rows)
        )
    )
    table = {
        f"v_{n}": {"duration": duration, "timestamps": [[s, s + w]], "sentences": [q], "qid": [f"qid_{n}"]}
        for n, (s, w, q) in enumerate(rows)
    }
    usable = [s for s in samples if s.windows[0][1] > s.windows[0][0]]
    durations = {s.vid: duration for s in samples}
    for name, content in (("a.txt", txt), ("a.jsonl", tvr), ("a.json", table)):
        skipped: list[str] = []
        path = write(tmp_path, name, content)
        assert [(s.qid, s.vid, s.query) for s in read_query_file(path).samples] == [
            (s.qid, s.vid, s.query) for s in samples
        ]
        if not usable:
            assert f"none of its {len(samples)} rows" in refusal(read_samples, path, durations, skipped)
            continue
        assert read_samples(path, durations, skipped) == usable
        assert len(skipped) == len(samples) - len(usable)


@OTHER_SYSTEMS
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_json_of_other_systems(tmp_path: Path, encoded: Any, name: str) -> None:
    """A JSON file saved on another system would be refused, or read as one line."""
    text = lines(ROW, {**ROW, "qid": 8}) if name == "a.jsonl" else json.dumps(ACTIVITYNET, indent=1) + "\n"
    path = write(tmp_path, name, encoded(text))
    assert [s.qid for s in read_samples(path)] == ([7, 8] if name == "a.jsonl" else [5, 6, 7])
    assert [s.qid for s in read_query_file(path).samples] == [s.qid for s in read_samples(path)]
