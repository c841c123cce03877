"""Who may ask, and how much at once: looked at before a body is read. Plain ASGI, around the whole application."""

import asyncio
import hmac
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote, urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from img_deploy.server.replies import refuse

OPEN = ("/", "/page.css", "/page.js", "/healthz", "/readyz")
"""Paths that tell nothing of the videos: no token is asked for."""
MEDIA = "/v1/media/"
COOKIE = "img_deploy_token"
"""Bears the token where a browser plays a video, for which a page cannot set headers."""


class Guard:
    """Refuses requests without the token, from pages of other sites, for other hosts, and with too large a body.

    Args:
        token: None where none is asked for.
        hosts: names that a request may be for; None for any. On loopback this keeps out pages of other sites whose
            name leads here.
        most_body: bytes.
        timeout: seconds within which a body has to come.
    """

    def __init__(
        self, app: ASGIApp, token: str | None, hosts: frozenset[str] | None, most_body: int, timeout: float
    ) -> None:
        self.app, self.token, self.hosts, self.most_body, self.timeout = app, token, hosts, most_body, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        taken = 0
        due: float | None = asyncio.get_running_loop().time() + self.timeout
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            due = None

        async def counted() -> Message:
            nonlocal taken, due
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"body: not all of it came within {self.timeout:g} s") from None
            taken += len(message.get("body", b""))
            if taken > self.most_body:
                raise HTTPException(413, self._too_large())
            if not message.get("more_body"):
                due = None  # what comes next is that the client goes away
            return message

        async def heard(message: Message) -> None:
            if due is None or message["type"] != "http.response.body" or message.get("more_body"):
                await send(message)
                return
            # A client that still sends would not see its answer if the connection were closed now.
            await send({**message, "more_body": True})
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    while (await receive()).get("more_body"):
                        pass
            await send({"type": "http.response.body"})

        refusal = self._refusal(scope["path"], headers)
        await (self.app if refusal is None else refuse(*refusal))(scope, counted, heard)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            return 421, f"host {host[:80]!r}: this server answers for {', '.join(sorted(self.hosts))} alone"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, f"origin {origin[:80]!r}: pages of other sites may not ask this server"
        if self.token is not None and path not in OPEN and not self._bears_token(path, headers):
            return 401, "no valid token: send the header `Authorization: Bearer TOKEN`"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:20]) > self.most_body:
            return 413, self._too_large()
        return None

    def _bears_token(self, path: str, headers: Headers) -> bool:
        assert self.token is not None
        given = headers.get("authorization", "")
        found = given[7:] if given[:7].lower() == "bearer " else ""
        if not found and path.startswith(MEDIA):
            try:
                morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
            except CookieError:
                morsel = None
            found = unquote(morsel.value) if morsel else ""
        return hmac.compare_digest(found.encode("utf-8", "replace"), self.token.encode())

    def _too_large(self) -> str:
        return f"body: got more than {self.most_body} bytes, the server's most; send fewer clips"


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
