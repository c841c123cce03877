"""Video ids: the same ActivityNet video is called ``v_X`` in one file and ``X`` in another."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

_PREFIX = "v_"


def other_spelling(vid: str) -> str:
    """The id with its ``v_`` prefix taken away, or put before it where it has none."""
    return vid.removeprefix(_PREFIX) if vid.startswith(_PREFIX) else _PREFIX + vid


def known_spelling(vid: str, known: Mapping[str, object]) -> str | None:
    """The spelling of ``vid`` that is a key of ``known``: its own if it is one, else the other; None if neither."""
    if vid in known:
        return vid
    other = other_spelling(vid)
    return other if other in known else None


def by_video(table: Mapping[str, Value], vid: str) -> Value | None:
    """The entry of a video under either spelling of its id, e.g. its duration; None where there is none."""
    key = known_spelling(vid, table)
    return None if key is None else table[key]
