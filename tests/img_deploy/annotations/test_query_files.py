"""Files of queries to ask, with or without videos, ids and moments."""

from pathlib import Path
from typing import Any

import pytest

from img_deploy.annotations import read_query_file, read_samples

from .examples import ACTIVITYNET, OTHER_SYSTEMS, ROW, TXT, lines, refusal, without, write


@OTHER_SYSTEMS
def test_text_of_other_systems(tmp_path: Path, encoded: Any) -> None:
    """A file saved on another system, or with blank lines, would be refused, be one line or gain characters."""
    queries = read_query_file(write(tmp_path, "q.txt", encoded("a person eats\nsomeone leaves\n")))
    assert [s.query for s in queries.samples] == ["a person eats", "someone leaves"]
    samples = read_samples(write(tmp_path, "a.txt", encoded(TXT)))
    assert [(s.vid, s.query) for s in samples] == [("3MSZA", "person turn a light on."), ("AMT7R", "a ## b")]


def asked(path: Path) -> list[str]:
    return [f"{sample.qid} {sample.vid} {sample.query}" for sample in read_query_file(path).samples]


def test_query_files_of_every_form(tmp_path: Path) -> None:
    """A query would be asked of another video, under another id, or counted to another form of file."""
    bare = {vid: without(entry, "qid", "timestamps") for vid, entry in ACTIVITYNET.items()}
    captions = ["v_a A tutorial.", "v_a The coach helps.", "v_b Then this."]
    for name, content, form, rows in [
        ("q.txt", "a person eats\n\n someone leaves\n", "lines", ["0  a person eats", "1  someone leaves"]),
        ("q.txt", TXT, "txt", ["12408 3MSZA person turn a light on.", "12412 AMT7R a ## b"]),
        ("q.txt", "3MSZA 24.3 30.4##sits.\nAMT7R 4 12##runs.\n", "txt", ["0 3MSZA sits.", "1 AMT7R runs."]),
        ("q.txt", "3MSZA##qid_4##sits.\nAMT7R##runs.\n", "txt", ["4 3MSZA sits.", "0 AMT7R runs."]),
        ("q.jsonl", lines(ROW), "jsonl", ["7 3MSZA person turns."]),
        (
            "q.json",
            lines(without(ROW, "qid"), {**ROW, "qid": 0}),
            "jsonl",
            [f"{n} 3MSZA person turns." for n in (1, 0)],
        ),
        ("q.json", ACTIVITYNET, "activitynet", [f"{qid} {rest}" for qid, rest in enumerate(captions, 5)]),
        ("q.json", bare, "activitynet", [f"{qid} {rest}" for qid, rest in enumerate(captions)]),
    ]:
        path = write(tmp_path, name, content)
        assert read_query_file(path).format == form
        assert asked(path) == rows
        assert not read_query_file(path).skipped


@pytest.mark.parametrize("moment", [[0, 0], [-1, -1], [9, 4], [500, 600], ["a", None], [], [float("nan"), 1]])
def test_moments_do_not_matter_to_queries(tmp_path: Path, moment: list[Any]) -> None:
    """Test splits without public moments carry placeholders; their queries could not be asked."""
    if len(moment) == 2:
        txt = write(tmp_path, "q.txt", f"a {moment[0]} {moment[1]}##qid_3##sits\n")
        assert asked(txt) == ["3 a sits"]
    for windows in ([moment], moment and [moment, moment], None):
        assert asked(write(tmp_path, "q.jsonl", lines({**ROW, "relevant_windows": windows}))) == [
            "7 3MSZA person turns."
        ]
    table = {"v_a": {**ACTIVITYNET["v_a"], "timestamps": [moment, moment]}}
    assert len(asked(write(tmp_path, "q.json", table))) == 2


def test_rows_know_their_place_their_duration_and_whether_they_have_an_id(tmp_path: Path) -> None:
    """A message could not name the line, or a row be answered in seconds of another row's duration."""
    rows = [{**ROW, "duration": 20}, {**ROW, "qid": None, "duration": 30.5}, {"vid": "b", "query": "x", "qid": 9}]
    queries = read_query_file(write(tmp_path, "q.jsonl", "\n" + lines(*rows)))
    assert [(s.row, s.duration) for s in queries.samples] == [(2, 20.0), (3, 30.5), (4, None)]
    assert queries.row_without_qid == 3
    assert read_query_file(write(tmp_path, "q.txt", TXT)).row_without_qid is None
    assert [s.row for s in read_query_file(write(tmp_path, "q.json", ACTIVITYNET)).samples] == [1, 2, 3]


def test_a_row_without_a_sentence_is_skipped(tmp_path: Path) -> None:
    """One row that cannot be asked would stop all the others, or vanish."""
    queries = read_query_file(write(tmp_path, "q.jsonl", lines(ROW, {**ROW, "qid": 8, "query": " "}, {"vid": "a"})))
    assert [s.qid for s in queries.samples] == [7]
    assert [f"q.jsonl:{row}: got query" in line for row, line in zip((2, 3), queries.skipped, strict=True)] == [
        True
    ] * 2
    assert "q.txt:1: got query" in refusal(read_query_file, write(tmp_path, "q.txt", "a 0 1##qid_1## \n"))


def test_a_table_is_not_taken_for_sentences(tmp_path: Path) -> None:
    """The header and whole rows of a .csv would be asked of every video; a sentence with commas would be refused."""
    for name in ("q.csv", "q.CSV", "q.tsv"):
        told = refusal(read_query_file, write(tmp_path, name, "qid,query,vid\n1,sits,a\n"))
        assert f"{name}: got a table by its name, expected a sentence per line (a .txt file), 'VID START END##" in told
    assert asked(write(tmp_path, "q.txt", "sits, stands, leaves\nruns\n")) == ["0  sits, stands, leaves", "1  runs"]
    assert asked(write(tmp_path, "q.csv", TXT)) == asked(write(tmp_path, "q.txt", TXT))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "", "got an empty file"),
        ("q.txt", "a 1##qid_1##x\n", "q.txt:1: got 'a 1##qid_1##x'"),
        ("q.txt", "sits down\na 0 1##qid_1##x\n", "q.txt:1: got 'sits down', expected 'VID START END##"),
        ("q.txt", "a 0 1##qid_x##x\n", "q.txt:1: got qid 'qid_x'"),
        ("q.txt", "a 0 1##qid_1##x\nb 0 1##qid_1##y\n", "q.txt:2: got qid 1 again, first at"),
        ("q.jsonl", lines(ROW) + '{"qid": 8, "query"', "q.jsonl:2: not valid JSON"),
        ("q.jsonl", lines({**ROW, "vid": ""}), "q.jsonl:1: got vid"),
        ("q.jsonl", lines({**ROW, "duration": 0}), "q.jsonl:1: got duration 0"),
        ("q.json", {"v_a": {"duration": 3, "sentences": "x"}}, "expected the lists"),
        ("q.json", {"v_a": {"duration": 3, "sentences": ["x"], "qid": ["1", "2"]}}, "got 1 sentences, 2 qid"),
    ],
)
def test_broken_query_files(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """A damaged file would be asked in part."""
    assert message in refusal(read_query_file, write(tmp_path, name, content))
