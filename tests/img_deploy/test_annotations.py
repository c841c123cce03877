import builtins
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.annotations import (
    Sample,
    read_query_file,
    read_samples,
)
from img_deploy.durations import read_durations
from img_deploy.errors import AnnotationError

TXT = "3MSZA 24.3 30.4##qid_12408##person turn a light on.\nAMT7R 4.3 12.5##qid_12412##a ## b\n"
ROW = {"qid": 7, "query": "person turns.", "duration": 30.96, "vid": "3MSZA", "relevant_windows": [[24.3, 30.4]]}
ACTIVITYNET = {
    "v_a": {
        "duration": 55.15,
        "timestamps": [[0.28, 55.15], [13.79, 60]],
        "sentences": ["A tutorial.", "  The coach helps. "],
        "qid": ["qid_5", "qid_6"],
    },
    "v_b": {"duration": 9, "timestamps": [[-1, 3]], "sentences": ["Then this."], "qid": ["qid_7"]},
}


def write(tmp_path: Path, name: str, content: Any) -> Path:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def without(row: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def refusal(read: Any, path: Path, *arguments: Any) -> str:
    """The one line with which reading ends, without the folder."""
    with pytest.raises(AnnotationError) as caught:
        read(path, *arguments)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(f"{path.parent}/")


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


OTHER_SYSTEMS = pytest.mark.parametrize(
    "encoded",
    [
        lambda text: ("\ufeff" + text).encode(),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace("\n", "\r\r\n").encode(),
        lambda text: ("\n\n" + text + "\n\n").encode(),
        lambda text: text.rstrip("\n").encode(),
        lambda text: ("\ufeff" + text.replace("\n", "\r\n")).encode("utf-16-le"),
        lambda text: ("\ufeff" + text).encode("utf-16-be"),
    ],
    ids=["mark", "crlf", "cr", "crcrlf", "blank", "open", "utf-16-le", "utf-16-be"],
)


@OTHER_SYSTEMS
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_json_of_other_systems(tmp_path: Path, encoded: Any, name: str) -> None:
    """A JSON file saved on another system would be refused, or read as one line."""
    text = lines(ROW, {**ROW, "qid": 8}) if name == "a.jsonl" else json.dumps(ACTIVITYNET, indent=1) + "\n"
    path = write(tmp_path, name, encoded(text))
    assert [s.qid for s in read_samples(path)] == ([7, 8] if name == "a.jsonl" else [5, 6, 7])
    assert [s.qid for s in read_query_file(path).samples] == [s.qid for s in read_samples(path)]


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "", "got an empty file"),
        ("q.txt", "a 1##qid_1##x\n", "q.txt:1: got 'a 1##qid_1##x'"),
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
