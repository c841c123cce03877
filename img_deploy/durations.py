"""Duration files: how long the videos are."""

import csv
import os
from collections.abc import Iterator

from img_deploy.annotation_files import Where, json_object, json_row, lines_of, seconds_of, text_of, vid_of
from img_deploy.annotations import format_of
from img_deploy.errors import AnnotationError

_VID_HEADERS = {"vid", "video", "video_id", "id", "name"}
_SECONDS_HEADERS = {"seconds", "duration", "duration_s", "duration_sec", "duration_seconds", "length"}

_Entries = Iterator[tuple[str, str, float]]
"""Place of an entry for messages, video id, seconds."""


def read_durations(path: Where) -> dict[str, float]:
    """Length of videos in seconds, by id as the file spells it (:func:`img_deploy.features.by_video` finds others).

    Args:
        path: ``charades.json`` or ActivityNet JSON (``{vid: {duration}}``), ``{vid: seconds}``, tvr JSON lines, or
            lines ``vid,seconds`` with or without a header; semicolons, tabs and spaces also part the two, and beside
            a semicolon or a tab the seconds may have a decimal comma.

    Raises:
        AnnotationError: unreadable, malformed, a video with two durations, or a duration that is missing, 0,
            negative or not finite; names the line or the video.
    """
    name = os.fspath(path)
    text = text_of(name)
    entries = _line_durations(text, name)
    if name.endswith((".json", ".jsonl")) or text.lstrip().startswith("{"):
        read = _jsonl_durations if format_of(name, text) == "jsonl" else _json_durations
        entries = read(text, name)
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


def _jsonl_durations(text: str, path: str) -> _Entries:
    for number, line in lines_of(text):
        where = f"{path}:{number}"
        row = json_row(line, where)
        yield where, vid_of(row.get("vid"), where), seconds_of(row.get("duration"), where)


def _json_durations(text: str, path: str) -> _Entries:
    for vid, entry in json_object(text, path).items():
        where = f"{path}: video {vid}"
        yield where, vid, seconds_of(entry.get("duration") if isinstance(entry, dict) else entry, where)


def _line_durations(text: str, path: str) -> _Entries:
    for index, (number, line) in enumerate(lines_of(text)):
        where = f"{path}:{number}"
        fields = _fields(line)
        if len(fields) != 2 or not fields[0]:
            raise AnnotationError(f"{where}: got {line[:60]!r}, expected 'vid,seconds'")
        vid, seconds = fields
        if index == 0 and vid.lower() in _VID_HEADERS and seconds.lower() in _SECONDS_HEADERS:
            continue
        yield where, vid, seconds_of(seconds, where)


def _fields(line: str) -> list[str]:
    """The fields of a line, whichever of the usual signs parts them."""
    sign = next((sign for sign in ";\t," if sign in line), None)
    if sign is None:
        return line.rsplit(None, 1)
    try:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=sign))]
    except csv.Error:
        return []
    return fields if sign == "," else [*fields[:-1], fields[-1].replace(",", ".")]
