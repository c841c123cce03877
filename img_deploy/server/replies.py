"""How errors are told: JSON with the same one line as on the command line, and the request's id."""

from contextvars import ContextVar
from typing import Any

from starlette.responses import JSONResponse

from img_deploy.errors import ImgDeployError, InputError, one_line
from img_deploy.server.batcher import BusyError
from img_deploy.server.shelf import UnknownVideoError

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    408: {"Connection": "close"},  # the rest of the body is not waited for
    503: {"Retry-After": "1"},
}


def refuse(status: int, text: object) -> JSONResponse:
    """The reply of an error."""
    headers = HEADERS.get(status)
    body = {"error": one_line(text, 1000), "request": REQUEST_ID.get()}
    return JSONResponse(body, status, headers)


def status_of(error: ImgDeployError) -> int:
    """404 for an unknown video, 422 for other bad input, 503 for what may work later, 500 for what failed."""
    for kind, status in ((UnknownVideoError, 404), (InputError, 422), (BusyError, 503)):
        if isinstance(error, kind):
            return status
    return 500


def problems(errors: Any) -> str:
    """All that is wrong with a body, in one line; values of the request are not repeated at length."""
    found = []
    for one in errors:
        where = ".".join(str(part) for part in one["loc"] if part != "body")
        what = one["msg"].removeprefix("Value error, ")
        found.append(f"{where}: {what}" if where else what)
    return one_line("; ".join(found))
