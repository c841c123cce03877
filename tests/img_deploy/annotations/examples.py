"""Annotations in every form of file, and what tests do with them."""

import json
from pathlib import Path
from typing import Any

import pytest

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
