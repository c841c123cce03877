"""Annotation, query and duration files: who asks what of which video, and how long the videos are."""

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

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
    vid_of,
    window_of,
)
from img_deploy.errors import AnnotationError
from img_deploy.features.ids import by_video

Windows = tuple[tuple[float, float], ...]
Format = Literal["txt", "jsonl", "activitynet", "lines"]

_EXPECTED = "'VID START END##qid_N##sentence' lines, tvr JSON lines or ActivityNet JSON"
_VID_HEADERS = {"vid", "video", "video_id", "id", "name"}
_SECONDS_HEADERS = {"seconds", "duration", "duration_s", "duration_sec", "duration_seconds", "length"}


@dataclass(frozen=True)
class Sample:
    """One query on one video."""

    qid: int
    """12408 for ``qid_12408``. The txt and the jsonl files of Charades number their queries differently."""
    vid: str
    query: str
    duration: float | None
    """Length of the video in seconds; None where no file tells."""
    windows: Windows
    """The annotated moments, (start, end) in seconds, inside the video; empty for a query alone."""


@dataclass(frozen=True)
class _Row:
    """A sample as its file has it; ``where`` names the place for messages."""

    where: str
    qid: int | None
    vid: str
    query: str
    duration: float | None
    windows: Windows


def read_samples(
    path: Where, durations: Mapping[str, float] | None = None, skipped: list[str] | None = None
) -> list[Sample]:
    """Reads an annotation or query file, in the file's order.

    Args:
        path: lines ``VID START END##qid_N##sentence`` (``*_qid.txt``); tvr JSON lines, in which
            ``relevant_windows``, ``duration`` and ``qid`` may be missing (rows without a qid get the free
            numbers from 0 on); or ActivityNet JSON ``{vid: {duration, timestamps, sentences, qid}}``.
            They are told apart by content.
        durations: seconds by video id for the rows that do not tell (see :func:`read_durations`).
        skipped: where given, a row whose moment is empty or ends before it starts is left out, and a line about
            it is appended here; otherwise it is an error.

    Returns:
        The samples. Starts are raised to 0 and ends cut to the duration where it is known.

    Raises:
        AnnotationError: unreadable, malformed, or duplicate qids (both places are named); a duration that is
            missing from ``durations``, 0, negative or not finite.
    """
    rows = _rows(path)
    free = _free_numbers(rows)
    samples = []
    for row in rows:
        duration = row.duration
        if duration is None and durations is not None:
            known = by_video(durations, row.vid)
            if known is None:
                raise AnnotationError(f"{row.where}: no duration for video {row.vid!r}; add it to the durations")
            duration = seconds_of(known, row.where)
        qid = next(free) if row.qid is None else row.qid
        try:
            windows = tuple(inside(window, duration, row.where) for window in row.windows)
        except AnnotationError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            continue
        samples.append(Sample(qid, row.vid, row.query, duration, windows))
    return samples


def read_queries(path: Where) -> list[str]:
    """The sentences of a plain text file, one per line; blank lines are skipped. Raises AnnotationError."""
    queries = [line.strip() for _, line in lines_of(path)]
    if not queries:
        raise AnnotationError(f"{path}: got no queries, expected one per line")
    return queries


def annotation_format(path: Where) -> Format:
    """What :func:`read_samples` would take a file for; ``lines`` is plain text (:func:`read_queries`).

    ``txt`` and ``jsonl`` number the queries of Charades differently: see
    :attr:`img_deploy.features.FeatureFolder.text_numbering`. Raises AnnotationError: unreadable or blank.
    """
    _, first = next(lines_of(path), (0, ""))
    if not first:
        raise AnnotationError(f"{path}: got an empty file, expected {_EXPECTED}")
    if os.fspath(path).endswith(".jsonl"):
        return "jsonl"
    if first.startswith("{"):
        return "jsonl" if is_json_row(first) else "activitynet"
    if os.fspath(path).endswith(".json"):
        raise AnnotationError(f"{path}:1: got {first[:40]!r}, expected a JSON object on it")
    return "txt" if "##" in first else "lines"


def read_durations(path: Where) -> dict[str, float]:
    """Length of videos in seconds, by id as the file spells it (:func:`img_deploy.features.by_video` finds both).

    Args:
        path: ``charades.json`` or ActivityNet JSON (``{vid: {duration}}``), ``{vid: seconds}``, tvr JSON lines, or
            csv ``vid,seconds`` with or without a header.

    Raises:
        AnnotationError: unreadable, malformed, a video with two durations, or a duration that is missing, 0,
            negative or not finite; names the line or the video.
    """
    if os.fspath(path).endswith((".json", ".jsonl")) or next(lines_of(path), (0, ""))[1].startswith("{"):
        jsonl = annotation_format(path) == "jsonl"
        entries = _jsonl_durations(path) if jsonl else _json_durations(path)
    else:
        entries = _csv_durations(path)
    durations: dict[str, float] = {}
    places: dict[str, str] = {}
    for where, vid, seconds in entries:
        if durations.setdefault(vid, seconds) != seconds:
            raise AnnotationError(
                f"{where}: got {seconds} s for video {vid!r}, expected {durations[vid]} s as at {places[vid]}"
            )
        places.setdefault(vid, where)
    if not durations:
        raise AnnotationError(f"{path}: got no durations, expected 'vid,seconds' lines or annotations with them")
    return durations


def _rows(path: Where) -> list[_Row]:
    kind = annotation_format(path)
    if kind == "lines":
        raise AnnotationError(f"{path}:1: got a line of plain text, expected {_EXPECTED}")
    readers = {"txt": _txt_rows, "jsonl": _jsonl_rows, "activitynet": _activitynet_rows}
    rows = list(readers[kind](path))
    seen: dict[int, str] = {}
    for row in rows:
        if row.qid is not None and seen.setdefault(row.qid, row.where) is not row.where:
            raise AnnotationError(f"{row.where}: got qid {row.qid} again, first at {seen[row.qid]}; make ids unique")
    if not rows:
        raise AnnotationError(f"{path}: got no annotations, expected {_EXPECTED}")
    return rows


def _free_numbers(rows: list[_Row]) -> Iterator[int]:
    taken = {row.qid for row in rows}
    return (number for number in count() if number not in taken)


def _txt_rows(path: Where) -> Iterator[_Row]:
    for where, line in lines_of(path):
        parts = line.split("##", 2)
        fields = parts[0].split()
        if len(parts) != 3 or len(fields) != 3:
            raise AnnotationError(f"{where}: got {line[:60]!r}, expected 'VID START END##qid_N##sentence'")
        vid, *window = fields
        yield _Row(where, qid_of(parts[1], where), vid, query_of(parts[2], where), None, (window_of(window, where),))


def _jsonl_rows(path: Where) -> Iterator[_Row]:
    for where, line in lines_of(path):
        row = json_row(line, where)
        qid = None if row.get("qid") is None else qid_of(row["qid"], where)
        duration = None if row.get("duration") is None else seconds_of(row["duration"], where)
        windows = row.get("relevant_windows")
        if not isinstance(windows, list | None):
            raise AnnotationError(f"{where}: got relevant_windows {windows!r}, expected a list of [start, end]")
        moments = tuple(window_of(window, where) for window in windows or ())
        yield _Row(where, qid, vid_of(row, where), query_of(row.get("query"), where), duration, moments)


def _activitynet_rows(path: Where) -> Iterator[_Row]:
    keys = ("timestamps", "sentences", "qid")
    for vid, entry in json_object(path).items():
        where = f"{path}: video {vid}"
        if not isinstance(entry, dict) or any(not isinstance(entry.get(key), list) for key in keys):
            raise AnnotationError(f"{where}: expected the lists {', '.join(keys)} (the *_qid.json files)")
        columns = [entry[key] for key in keys]
        if len({len(column) for column in columns}) != 1:
            lengths = ", ".join(f"{len(column)} {key}" for key, column in zip(keys, columns, strict=True))
            raise AnnotationError(f"{where}: got {lengths}, expected as many of each")
        duration = seconds_of(entry.get("duration"), where)
        for number, (window, sentence, qid) in enumerate(zip(*columns, strict=True), 1):
            place = f"{where}, sentence {number}"
            yield _Row(place, qid_of(qid, place), vid, query_of(sentence, place), duration, (window_of(window, place),))


def _jsonl_durations(path: Where) -> Iterator[tuple[str, str, float]]:
    for where, line in lines_of(path):
        row = json_row(line, where)
        yield where, vid_of(row, where), seconds_of(row.get("duration"), where)


def _json_durations(path: Where) -> Iterator[tuple[str, str, float]]:
    for vid, entry in json_object(path).items():
        where = f"{path}: video {vid}"
        yield where, vid, seconds_of(entry.get("duration") if isinstance(entry, dict) else entry, where)


def _csv_durations(path: Where) -> Iterator[tuple[str, str, float]]:
    for index, (where, line) in enumerate(lines_of(path)):
        try:
            fields = [field.strip() for field in next(csv.reader([line]))]
        except csv.Error:
            fields = []
        if len(fields) != 2 or not fields[0]:
            raise AnnotationError(f"{where}: got {line[:60]!r}, expected 'vid,seconds'")
        vid, seconds = fields
        if index == 0 and vid.lower() in _VID_HEADERS and seconds.lower() in _SECONDS_HEADERS:
            continue
        yield where, vid, seconds_of(seconds, where)
