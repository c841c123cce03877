"""Annotation and query files: who asks what of which video."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

from img_deploy.annotation_files import (
    Where,
    inside,
    is_json_row,
    json_object,
    json_row,
    lines_of,
    qid_of,
    query_of,
    seconds_of,
    text_of,
    vid_of,
    window_of,
)
from img_deploy.errors import AnnotationError
from img_deploy.features.ids import by_video

Format = Literal["txt", "jsonl", "activitynet", "lines"]

_EXPECTED = "'VID START END##qid_N##sentence' lines, tvr JSON lines or ActivityNet JSON"


@dataclass(frozen=True)
class Sample:
    """One query on one video."""

    qid: int
    """12408 for ``qid_12408``. The txt and the jsonl files of Charades number their queries differently."""
    vid: str
    """Empty for a line of plain text, which is asked of every video."""
    query: str
    duration: float | None
    """Length of the video in seconds; None where no file tells."""
    windows: tuple[tuple[float, float], ...] = ()
    """The annotated moments, (start, end) in seconds, inside the video; empty for a query alone."""
    row: int = field(default=0, compare=False)
    """Line of the file from 1; in ActivityNet JSON the number of the sentence."""


@dataclass(frozen=True)
class QueryFile:
    """The queries of a file; their annotated moments, if any, are left unread."""

    format: Format
    """``txt`` and ``jsonl`` number the queries of Charades differently: see
    :attr:`img_deploy.features.FeatureFolder.text_numbering`."""
    samples: tuple[Sample, ...]
    skipped: tuple[str, ...]
    """A line about each row that cannot be asked, e.g. one without a sentence."""
    row_without_qid: int | None
    """The first row without a query id of its own; such rows are numbered from 0 on."""


@dataclass(frozen=True)
class _Row:
    """A row whose sentence and moments are as the file has them; ``where`` names the place for messages."""

    where: str
    number: int
    vid: str
    query: Any
    qid: int | None = None
    duration: float | None = None
    windows: Any = None


def read_query_file(path: Where) -> QueryFile:
    """Reads the queries of a file, in the file's order; annotated moments are neither needed nor checked.

    Args:
        path: plain text, a sentence per line; lines ``VID START END##qid_N##sentence`` (``*_qid.txt``) or
            ``VID START END##sentence`` (Charades-STA as published), START and END being optional; tvr JSON lines;
            or ActivityNet JSON ``{vid: {duration, sentences, qid}}``. They are told apart by content. Rows
            without a qid get the free numbers from 0 on.

    Raises:
        AnnotationError: unreadable, malformed, duplicate qids (both places are named), a duration that is 0,
            negative or not finite, or no row that can be asked; lines of plain text in a .csv or .tsv file.
    """
    form, rows = _parsed(path)
    if form == "lines" and os.fspath(path).lower().endswith((".csv", ".tsv")):
        raise AnnotationError(
            f"{path}: got a table by its name, expected a sentence per line (a .txt file), {_EXPECTED}; save it as one"
        )
    samples, skipped = [], []
    for qid, row in _numbered(rows):
        try:
            query = query_of(row.query, row.where)
        except AnnotationError as error:
            skipped.append(str(error))
            continue
        samples.append(Sample(qid, row.vid, query, row.duration, row=row.number))
    if not samples:
        raise AnnotationError(skipped[0])
    bare = next((row.number for row in rows if row.qid is None), None)
    return QueryFile(form, tuple(samples), tuple(skipped), bare)


def read_samples(
    path: Where, durations: Mapping[str, float] | None = None, skipped: list[str] | None = None
) -> list[Sample]:
    """Reads an annotation file with its moments, in the file's order.

    Args:
        path: lines ``VID START END##qid_N##sentence`` (``*_qid.txt``); tvr JSON lines, in which
            ``relevant_windows``, ``duration`` and ``qid`` may be missing (rows without a qid get the free
            numbers from 0 on); or ActivityNet JSON ``{vid: {duration, timestamps, sentences, qid}}``.
            They are told apart by content.
        durations: seconds by video id for the rows that do not tell (see :func:`img_deploy.durations.read_durations`).
        skipped: where given, a row whose moment is empty or ends before it starts is left out, and a line about
            it is appended here; otherwise it is an error.

    Returns:
        The samples. Starts are raised to 0 and ends cut to the duration where it is known.

    Raises:
        AnnotationError: unreadable, malformed, or duplicate qids (both places are named); a duration that is
            missing from ``durations``, 0, negative or not finite; or no row with a usable moment.
    """
    form, rows = _parsed(path)
    if form == "lines":
        raise AnnotationError(f"{path}:1: got a line of plain text, expected {_EXPECTED}")
    samples = []
    reasons: list[str] = []
    for qid, row in _numbered(rows):
        if row.qid is None and form != "jsonl":
            raise AnnotationError(f"{row.where}: got no qid, expected {_EXPECTED}")
        duration = _seconds(row, form, durations)
        windows = [window_of(window, row.where) for window in row.windows or ()]
        try:
            query = query_of(row.query, row.where)
            inner = tuple(inside(window, duration, row.where) for window in windows)
        except AnnotationError as error:
            if skipped is None:
                raise
            reasons.append(str(error))
            continue
        samples.append(Sample(qid, row.vid, query, duration, inner, row.number))
    if not samples:
        reason = reasons[0].removeprefix(f"{os.fspath(path)}:").strip()
        raise AnnotationError(f"{path}: none of its {len(rows)} rows has a usable moment (row {reason})")
    if skipped is not None:
        skipped += reasons
    return samples


def _seconds(row: _Row, form: Format, durations: Mapping[str, float] | None) -> float | None:
    if row.duration is not None or durations is None:
        if row.duration is None and form == "activitynet":
            raise AnnotationError(f"{row.where}: got no duration, expected seconds above 0")
        return row.duration
    known = by_video(durations, row.vid)
    if known is None:
        raise AnnotationError(f"{row.where}: no duration for video {row.vid!r}; add it to the durations")
    return seconds_of(known, row.where)


def format_of(path: str, text: str) -> Format:
    """What a file's content is taken for. Raises AnnotationError where it is blank."""
    _, first = next(lines_of(text), (0, ""))
    if not first:
        raise AnnotationError(f"{path}: got an empty file, expected {_EXPECTED}")
    if path.endswith(".jsonl"):
        return "jsonl"
    if first.startswith("{"):
        return "jsonl" if is_json_row(first) else "activitynet"
    if path.endswith(".json"):
        raise AnnotationError(f"{path}:1: got {first[:40]!r}, expected a JSON object on it")
    return "txt" if "##" in text else "lines"


def _parsed(path: Where) -> tuple[Format, list[_Row]]:
    """A file's format and rows."""
    name = os.fspath(path)
    text = text_of(name)
    form = format_of(name, text)
    if form == "activitynet":
        rows = list(_activitynet_rows(text, name))
    else:
        read = {"txt": _txt_row, "jsonl": _jsonl_row, "lines": _plain_row}[form]
        rows = [read(line, f"{name}:{number}", number) for number, line in lines_of(text)]
    if not rows:
        raise AnnotationError(f"{name}: got no annotations, expected {_EXPECTED}")
    return form, rows


def _numbered(rows: Sequence[_Row]) -> Iterator[tuple[int, _Row]]:
    """(qid, row); rows without a qid take the free numbers from 0 on. Raises AnnotationError for a qid met twice."""
    seen: dict[int, str] = {}
    for row in rows:
        if row.qid is not None and seen.setdefault(row.qid, row.where) is not row.where:
            raise AnnotationError(f"{row.where}: got qid {row.qid} again, first at {seen[row.qid]}; make ids unique")
    free = (number for number in count() if number not in seen)
    return ((next(free) if row.qid is None else row.qid, row) for row in rows)


def _plain_row(line: str, where: str, number: int) -> _Row:
    return _Row(where, number, vid="", query=line)


def _txt_row(line: str, where: str, number: int) -> _Row:
    parts = line.split("##", 2)
    fields = parts[0].split()
    if len(parts) < 2 or len(fields) not in (1, 3):
        raise AnnotationError(f"{where}: got {line[:60]!r}, expected 'VID START END##qid_N##sentence'")
    vid, *window = fields
    qid = qid_of(parts[1], where) if len(parts) == 3 else None
    return _Row(where, number, vid, parts[-1], qid, windows=[window])


def _jsonl_row(line: str, where: str, number: int) -> _Row:
    row = json_row(line, where)
    qid = None if row.get("qid") is None else qid_of(row["qid"], where)
    duration = None if row.get("duration") is None else seconds_of(row["duration"], where)
    windows = row.get("relevant_windows")
    if not isinstance(windows, list | None):
        raise AnnotationError(f"{where}: got relevant_windows {windows!r}, expected a list of [start, end]")
    return _Row(where, number, vid_of(row.get("vid"), where), row.get("query"), qid, duration, windows)


def _activitynet_rows(text: str, path: str) -> Iterator[_Row]:
    number = count(1)
    for vid, entry in json_object(text, path).items():
        where = f"{path}: video {vid}"
        columns = {key: entry.get(key) for key in ("timestamps", "sentences", "qid")} if isinstance(entry, dict) else {}
        given = {key: column for key, column in columns.items() if column is not None}
        if "sentences" not in given or not all(isinstance(column, list) for column in given.values()):
            raise AnnotationError(f"{where}: expected the lists timestamps, sentences, qid (the *_qid.json files)")
        if len({len(column) for column in given.values()}) != 1:
            lengths = ", ".join(f"{len(column)} {key}" for key, column in given.items())
            raise AnnotationError(f"{where}: got {lengths}, expected as many of each")
        duration = None if entry.get("duration") is None else seconds_of(entry["duration"], where)
        for index, sentence in enumerate(given["sentences"]):
            place = f"{where}, sentence {index + 1}"
            qid = qid_of(given["qid"][index], place) if "qid" in given else None
            windows = [given["timestamps"][index]] if "timestamps" in given else None
            yield _Row(place, next(number), vid, sentence, qid, duration, windows)
