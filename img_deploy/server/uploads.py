"""Features in a request: ``.npy`` content, parsed in memory and never as a pickle."""

import math
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from img_deploy.errors import InputError, one_line
from img_deploy.features.checks import Array
from img_deploy.features.readers import npy_from_bytes

LONGEST_ID = 256
_BINARY = {"type": "string", "format": "binary"}
UPLOAD: dict[str, Any] = {
    "parameters": [
        {"name": "vid", "in": "query", "schema": {"type": "string"}, "description": "Id, beside a plain .npy body."},
        {"name": "duration", "in": "query", "schema": {"type": "number"}, "description": "Seconds, likewise."},
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["vid", "video"],
                    "properties": {
                        "vid": {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
                        "video": _BINARY | {"description": "Features [T, Dv] as .npy."},
                        "audio": _BINARY | {"description": "Features of the sound [Ta, Da] as .npy."},
                        "duration": {"type": "number", "exclusiveMinimum": 0, "description": "Seconds."},
                    },
                }
            },
            "application/octet-stream": {"schema": _BINARY},
        },
    },
}
"""Of the route, for OpenAPI."""


@dataclass(frozen=True, eq=False)
class Upload:
    """A video as it was sent; its features are not held to the bundle's yet."""

    vid: str
    video: Array
    audio: Array | None
    duration: float | None


async def read_upload(request: Request) -> Upload:
    """A form, or the visual features alone as the body, with the rest in the query string.

    Raises:
        InputError: no id or an unusable one, no features, or not those of a .npy file; a duration that is none.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        try:
            async with request.form(max_files=2, max_fields=4) as form:
                return _upload({name: await _content(value) for name, value in form.multi_items()})
        except UnicodeError as error:
            raise InputError(f"upload: its text cannot be read ({one_line(error, 120)}); send it as UTF-8") from None
    given: dict[str, Any] = dict(request.query_params)
    return _upload(given | {"video": await request.body()})


async def _content(value: UploadFile | str) -> bytes | str:
    return await value.read() if isinstance(value, UploadFile) else value


def _upload(given: dict[str, Any]) -> Upload:
    if unknown := given.keys() - {"vid", "video", "audio", "duration"}:
        raise InputError(f"upload: got {', '.join(sorted(unknown))[:80]}, expected vid, video, audio and duration")
    vid, video, audio = given.get("vid"), given.get("video"), given.get("audio")
    if not isinstance(vid, str) or not 0 < len(vid) <= LONGEST_ID or not vid.isprintable() or vid != vid.strip():
        raise InputError(f"vid: got {vid!r:.80}, expected an id of 1 to {LONGEST_ID} printable characters")
    if not isinstance(video, bytes) or not isinstance(audio, bytes | None):
        raise InputError("video, audio: expected the content of .npy files")
    sound = None if audio is None else npy_from_bytes(audio, "audio")
    return Upload(vid, npy_from_bytes(video, "video"), sound, _seconds(given.get("duration")))


def _seconds(given: Any) -> float | None:
    if given in (None, ""):
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"duration: got {given!r:.40}, expected more than 0 seconds")
    return seconds
