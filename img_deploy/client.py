"""A client of ``img-deploy serve``, over the standard library.

>>> client = Client("http://127.0.0.1:8000")  # doctest: +SKIP
>>> client.ground("a person opens the door", best=3)["answers"][0]["pred_relevant_windows"]  # doctest: +SKIP
[[12.3, 18.1, 0.83]]
"""

import io
import json
import time
import uuid
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from img_deploy.errors import ImgDeployError, InputError, one_line

Row = dict[str, Any]


class ServerError(ImgDeployError):
    """The server cannot be reached, failed, or stayed busy."""


class Client:
    """One server.

    Args:
        url: e.g. ``http://127.0.0.1:8000``.
        token: where the server asks for one.
        timeout: seconds that a request may take.
        patience: seconds for which a busy server is asked again, after the times that it names.

    Methods raise:
        InputError: the server refuses what it was given; its own line.
        ServerError: it cannot be reached, failed, or stayed busy.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 60, patience: float = 10) -> None:
        self.url, self.timeout, self.patience = url.rstrip("/"), timeout, patience
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def ground(self, query: str = "", videos: list[str] | None = None, **options: Any) -> Row:
        """The moments of a sentence in some videos, all by default.

        Args:
            options: ``top_k``, ``nms``, ``best``, ``qid``, ``tokens`` (nested lists), ``curves``.

        Returns:
            ``answers``, rows as ``infer --format jsonl`` writes them; ``skipped`` and ``remarks``, lines.
        """
        body = {"query": query, "videos": videos, **options}
        return self._ask("POST", "/v1/ground", json.dumps(body).encode(), "application/json")

    def videos(self) -> list[Row]:
        """Every video, by id."""
        found: list[Row] = []
        while True:
            after = {"after": found[-1]["vid"]} if found else {}
            part = self._ask("GET", f"/v1/videos?{urlencode({'limit': 1000, **after})}")["videos"]
            found += part
            if len(part) < 1000:
                return found

    def add_video(self, vid: str, video: Any, audio: Any = None, duration: float | None = None) -> Row:
        """Send the features of a video, [T, Dv] and [Ta, Da], arrays of numbers; those of its id are replaced.

        Args:
            duration: seconds.
        """
        parts = {"vid": vid.encode(), "video": _npy(video)}
        if audio is not None:
            parts["audio"] = _npy(audio)
        if duration is not None:
            parts["duration"] = repr(float(duration)).encode()
        kind, body = _form(parts)
        return self._ask("POST", "/v1/videos", body, kind)

    def delete_video(self, vid: str) -> None:
        """Have a video forgotten."""
        self._ask("DELETE", f"/v1/videos/{quote(vid, safe='')}")

    def bundle(self) -> Row:
        """What the server runs, and which features it takes."""
        return self._ask("GET", "/v1/bundle")

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        begun = time.monotonic()
        while True:
            try:
                request = Request(self.url + path, body, headers, method=method)
                with urlopen(request, timeout=self.timeout) as reply:
                    content = reply.read()
                    return json.loads(content) if content else None
            except HTTPError as error:
                said = _said(error)
                given = error.headers.get("Retry-After", "")
                wait = int(given) if given.isdecimal() else 1  # a proxy may give a date
                if error.code != 503 or time.monotonic() - begun + wait > self.patience:
                    raise (InputError if 400 <= error.code < 500 else ServerError)(said) from None
                time.sleep(wait)
            except (HTTPException, OSError, ValueError) as error:
                raise ServerError(f"{self.url}: no answer ({one_line(error, 160)})") from None


def _said(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (HTTPException, OSError, ValueError, KeyError, TypeError):
        return f"{error.url}: got status {error.code}"


def _npy(array: Any) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, np.asarray(array), allow_pickle=False)
    return stream.getvalue()


def _form(parts: dict[str, bytes]) -> tuple[str, bytes]:
    """Content type and body of a form; all but ``vid`` and ``duration`` are files."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, content in parts.items():
        file = "" if name in ("vid", "duration") else f'; filename="{name}.npy"'
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()
