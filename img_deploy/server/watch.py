"""What is told of requests: a line of JSON each, and figures for Prometheus."""

import json
import logging
import random
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from img_deploy.errors import one_line
from img_deploy.server.replies import REQUEST_ID, refuse

LOG = logging.getLogger("img_deploy.server")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
NO_GUESSING = (b"x-content-type-options", b"nosniff")
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class JsonLines(logging.Formatter):
    """A log record as one line of JSON; the fields of a request stand in ``record.fields``."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": when, "level": record.levelname.lower(), "message": one_line(record.getMessage())}
        if record.exc_info:
            line["error"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line | getattr(record, "fields", {}))


def log_to_stderr() -> None:
    """Every logger's lines, uvicorn's too, and Python's warnings, as JSON on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept: dict[str, Any] = {"namespace": "img_deploy", "registry": self.registry}
        self.requests = Counter("requests", "Requests answered.", ("route", "status"), **kept)
        self.seconds = Histogram("request_seconds", "Seconds of a request.", ("route",), buckets=_SECONDS, **kept)
        self.sizes = Histogram("batch_items", "Items of a batch.", ("stage",), buckets=(1, 2, 4, 8, 16, 32, 64), **kept)
        self.work = Histogram("batch_seconds", "Seconds of a batch.", ("stage",), buckets=_SECONDS, **kept)
        self._kept = kept

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A figure that is asked for when it is read."""
        Gauge(name, text, **self._kept).set_function(value)

    def batch(self, stage: str, items: int, seconds: float) -> None:
        """Take in a batch."""
        self.sizes.labels(stage).observe(items)
        self.work.labels(stage).observe(seconds)


class Watch:
    """Gives each request an id, a log line and its place in the figures; what goes wrong inside is told here alone."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if _ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        token, begun, status = REQUEST_ID.set(name), time.monotonic(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name.encode()), NO_GUESSING]
            await send(message)

        try:
            await self.app(scope, receive, told)
        except Exception:
            LOG.exception("a request failed", extra={"fields": {"request": name}})
            if not status:
                await refuse(500, f"the server failed; its log tells more of request {name}")(scope, receive, told)
        finally:
            REQUEST_ID.reset(token)
            self._told(scope, name, status or 499, time.monotonic() - begun)

    def _told(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")  # the pattern: paths are without number
        self.metrics.requests.labels(route, status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        fields = {"request": name, "method": scope["method"], "path": scope["path"][:200], "status": status}
        LOG.info("request", extra={"fields": fields | {"ms": round(1000 * seconds, 1)}})
