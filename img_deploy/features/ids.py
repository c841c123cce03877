"""Video ids: one video is called ``v_X``, ``X`` and ``X.mp4`` in different files."""

import unicodedata
from collections.abc import Collection, Iterator, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_PREFIX = "v_"
_MEDIA = tuple(case for end in ("mp4", "mkv", "webm", "avi", "mov", "wav") for case in (f".{end}", f".{end.upper()}"))


def known_spelling(vid: str, known: Collection[str]) -> str | None:
    """The spelling of ``vid`` among the ids ``known`` (a set or a mapping); None where there is none.

    Its own spelling comes first. Others with or without ``v_``, the suffix of a media file, or in another Unicode
    normal form count where only one of them is known. Letter case is part of an id.
    """
    if vid in known:
        return vid
    found = {other for other in _spellings(vid) if other in known}
    return found.pop() if len(found) == 1 else None


def by_video(table: Mapping[str, Value], vid: str) -> Value | None:
    """The entry of a video under any spelling of its id, e.g. its duration; None where there is none."""
    key = known_spelling(vid, table)
    return None if key is None else table[key]


def _spellings(vid: str) -> Iterator[str]:
    stem = next((vid.removesuffix(end) for end in _MEDIA if vid.endswith(end) and vid != end), vid)
    bare = stem.removeprefix(_PREFIX) or stem
    for name in {unicodedata.normalize("NFC", bare), unicodedata.normalize("NFD", bare)}:
        for start in ("", _PREFIX):
            yield from (f"{start}{name}{end}" for end in ("", *_MEDIA))
