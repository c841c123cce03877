"""Lines, JSON and single fields of annotation files, each checked with one clear error line."""

import codecs
import json
import math
import os
from collections.abc import Iterator
from typing import Any

from img_deploy.errors import AnnotationError, is_utf8, one_line

Where = str | os.PathLike[str]


def text_of(path: Where) -> str:
    """A whole UTF-8 file with its line ends made ``\\n``. Raises AnnotationError."""
    name = os.fspath(path)
    data = b""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise AnnotationError(f"{name}: got a pipe or a device, expected a file (it is read more than once)")
    try:
        with open(path, "rb") as stream:
            data = stream.read()
        encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        text = data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise AnnotationError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise AnnotationError(f"{name}: got a directory, expected a file") from None
    except PermissionError:
        raise AnnotationError(f"{name}: no permission to read it; change its mode or its owner") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise AnnotationError(f"{name}:{line}: got bytes that are not UTF-8, expected text; save it as UTF-8") from None
    except OSError as error:
        raise AnnotationError(f"{name}: cannot be read ({error.strerror or error})") from None
    if "\0" in text:  # UTF-16 without a mark, UTF-32, or what a full disk left
        line = text[: text.index("\0")].count("\n") + 1
        raise AnnotationError(f"{name}:{line}: got NUL bytes, expected text; save it as UTF-8")
    return text


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, content) of each line that is not blank, stripped."""
    # Not str.splitlines: sentences may hold other characters that it takes for line ends.
    return ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip())


def json_row(line: str, where: str) -> dict[str, Any]:
    """The object on one line of a JSON lines file. Raises AnnotationError."""
    row = _json(line, where)
    if not isinstance(row, dict):
        raise AnnotationError(f"{where}: got a JSON {type(row).__name__}, expected an object with vid and query")
    return row


def json_object(text: str, path: str) -> dict[str, Any]:
    """The object that is a whole JSON file. Raises AnnotationError."""
    content = _json(text, path, whole=True)
    if not isinstance(content, dict):
        raise AnnotationError(f"{path}: got a JSON {type(content).__name__}, expected an object keyed by video id")
    return content


def is_json_row(line: str) -> bool:
    """Whether a line is a JSON object about one query or video, not one keyed by video ids."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return any(key in row and not isinstance(row[key], dict) for key in ("vid", "query", "qid"))


def _json(text: str, where: str, whole: bool = False) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}" if whole else where
        raise AnnotationError(f"{place}: not valid JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{where}: not usable JSON ({one_line(error, 100)})") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return content


def qid_of(value: Any, where: str) -> int:
    """12 of ``12``, ``"12"`` or ``"qid_12"``. Raises AnnotationError."""
    if isinstance(value, str):
        digits = value.strip().removeprefix("qid_")
        if digits.isascii() and digits.isdigit() and len(digits) < 19:
            return int(digits)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18:
        return value
    raise AnnotationError(f"{where}: got qid {str(value)[:40]!r}, expected a number such as 12 or qid_12")


def vid_of(value: Any, where: str) -> str:
    """A video id, stripped. Raises AnnotationError."""
    if not isinstance(value, str) or not value.strip():
        raise AnnotationError(f"{where}: got vid {str(value)[:40]}, expected a video id")
    return value.strip()


def query_of(value: Any, where: str) -> str:
    """A sentence in UTF-8, stripped. Raises AnnotationError."""
    if not isinstance(value, str) or not value.strip() or not is_utf8(value):
        raise AnnotationError(f"{where}: got query {value!r}, expected a sentence")
    return value.strip()


def seconds_of(value: Any, where: str) -> float:
    """A duration: a positive number of seconds, or its text. Raises AnnotationError."""
    if value is None:
        raise AnnotationError(f"{where}: got no duration, expected seconds above 0")
    seconds = _number(value)
    if seconds is None or not 0 < seconds < math.inf:
        raise AnnotationError(f"{where}: got duration {str(value)[:40]}, expected seconds above 0")
    return seconds


def window_of(value: Any, where: str) -> tuple[float, float]:
    """(start, end) in seconds as the file has them. Raises AnnotationError."""
    numbers = [_number(item) for item in value] if isinstance(value, list) else []
    if len(numbers) != 2 or any(number is None or not math.isfinite(number) for number in numbers):
        raise AnnotationError(f"{where}: got window {str(value)[:60]}, expected START END in seconds")
    return numbers[0], numbers[1]  # type: ignore[return-value]


def inside(window: tuple[float, float], duration: float | None, where: str) -> tuple[float, float]:
    """A window cut to its video, 0 to ``duration`` seconds. Raises AnnotationError where nothing is left."""
    start = max(window[0], 0.0)
    end = window[1] if duration is None else min(window[1], duration)
    if end <= start:
        video = "a video" if duration is None else f"a video of {duration} s"
        raise AnnotationError(
            f"{where}: got the window {window[0]} to {window[1]} s in {video}, expected start before end inside it; "
            "correct or remove it"
        )
    return start, end


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
