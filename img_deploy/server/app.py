"""The routes: what comes in is checked here and handed to the search, what comes out is made rows."""

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any, cast

import numpy as np
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from img_deploy import __version__
from img_deploy.errors import FeatureError, ImgDeployError, one_line
from img_deploy.hardware import package_versions
from img_deploy.server.media import Media
from img_deploy.server.replies import problems, refuse, status_of
from img_deploy.server.schemas import BundleFacts, Error, Ground, Grounded, Video, Videos, curves_of
from img_deploy.server.search import Found, Question, Search
from img_deploy.server.security import Guard
from img_deploy.server.uploads import UPLOAD, read_upload
from img_deploy.server.watch import LOG, Metrics, Watch

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
"""Of the page: nothing of other hosts."""
MOST_PROBLEMS = 100
"""Of a body that are told one by one: each costs more than what is wrong with it."""
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text}
    for status, text in (
        (401, "No valid token."),
        (403, "A page of another site asks."),
        (408, "The body did not come in time."),
        (413, "The body is too large."),
        (421, "For another host."),
        (422, "Bad input."),
        (503, "Busy, warming up, or out of time: try again after `Retry-After` seconds."),
    )
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Error, "description": "No such video."}}


def make_app(
    search: Search,
    metrics: Metrics,
    media: Media | None = None,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
    most_body: int = 64 << 20,
) -> FastAPI:
    """The application of a server; ``token``, ``hosts`` and ``most_body`` as for :class:`Guard`."""
    media = media or Media({})

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        search.batcher.start()
        warming = asyncio.create_task(search.warm_up())
        warming.add_done_callback(_tell_failure)
        try:
            yield
        finally:
            warming.cancel()
            await asyncio.gather(warming, return_exceptions=True)
            await search.batcher.stop()

    app = FastAPI(
        title="img-deploy",
        version=__version__,
        summary="Moments in videos that sentences describe.",
        docs_url=None,
        redoc_url=None,
        lifespan=running,
        # For the description alone: ``Guard`` has refused who comes without it.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if token else None,
    )
    app.state.predictor = search.predictor
    app.add_middleware(Guard, token=token, hosts=hosts, most_body=most_body, timeout=search.timeout)
    app.add_middleware(Watch, metrics=metrics)
    metrics.gauge("requests_now", "Requests computed or waiting.", lambda: search.batcher.requests)
    metrics.gauge("items_waiting", "Items that wait for a batch.", lambda: search.batcher.waiting)
    metrics.gauge("videos", "Videos that can be asked.", lambda: len(search.shelf))
    _handle_errors(app)
    _offer_search(app, search, media)
    _offer_videos(app, search, media)
    _offer_state(app, search, metrics)
    _offer_page(app)
    return app


def _tell_failure(warming: asyncio.Task) -> None:
    if not warming.cancelled() and (error := warming.exception()) is not None:
        LOG.error("warming up failed: no question will be answered", exc_info=error)


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ImgDeployError)
    async def known(_: Request, error: ImgDeployError) -> Response:
        return refuse(status_of(error), error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return refuse(422, problems(error.errors()))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return refuse(499, "the client has gone away")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        # 400 is what the parsers of bodies say.
        reply = refuse(422 if error.status_code == 400 else error.status_code, error.detail)
        reply.headers.update(error.headers or {})
        return reply


def _offer_search(app: FastAPI, search: Search, media: Media) -> None:
    async def ground(request: Request, body: Ground) -> Response:
        """The moments that a query describes: in one video, in several, or in the whole library."""
        text = body.query if body.tokens is None else _tokens(body.tokens)
        question = Question(text, body.query, body.qid, body.videos, body.top_k, body.nms, body.best)
        found: Found = await unless_gone(request, search.ground(question))
        content: dict[str, Any] = {"answers": [answer.to_row() for answer in found.answers]}
        if body.curves:
            content["curves"] = [curves_of(answer) for answer in found.answers]
        return JSONResponse(content | {"skipped": list(map(one_line, found.skipped)), "remarks": remarks_of(found)})

    app.router.add_api_route(
        "/v1/ground",
        ground,
        methods=["POST"],
        response_model=Grounded,
        responses=ERRORS | NOT_FOUND,
        route_class_override=_GroundRoute,
    )

    @app.get("/v1/bundle", response_model=BundleFacts, responses=ERRORS)
    async def bundle() -> Any:
        """What the server runs, and which features it takes."""
        await asyncio.to_thread(search.shelf.refresh)
        predictor = search.predictor
        manifest = predictor.bundle.manifest
        return {
            "bundle": predictor.bundle.folder.name,
            "network": predictor.bundle.identity,
            "features": manifest.features,
            "limits": manifest.limits,
            "precision": predictor.choice.backend.precision,
            "backend": f"{predictor.backend}:{predictor.choice.backend.device}",
            "takes": "sentences" if predictor.rules.text is None else "token features",
            "videos": len(search.shelf),
            "media": bool(len(media)),
            "versions": package_versions(),
        }


def _offer_videos(app: FastAPI, search: Search, media: Media) -> None:
    @app.get("/v1/videos", response_model=Videos, responses=ERRORS)
    async def videos(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str, Query(max_length=256, description="The last id of the part before.")] = "",
    ) -> Any:
        """The videos, by id, in parts."""
        await asyncio.to_thread(search.shelf.refresh)
        names = search.shelf.videos()
        part = [name for name in names if name > after][:limit]
        return {"total": len(names), "videos": await asyncio.to_thread(lambda: [facts(name) for name in part])}

    def facts(vid: str) -> Video:
        try:
            return Video(**vars(search.shelf.facts(vid)), media=vid in media)
        except FeatureError as error:
            return Video(vid=vid, media=vid in media, error=one_line(error))

    @app.post("/v1/videos", status_code=201, response_model=Video, responses=ERRORS, openapi_extra=UPLOAD)
    async def add(request: Request) -> Any:
        """Take in a video's features, in place of those of its id."""
        upload = await read_upload(request)
        features = await asyncio.to_thread(
            search.predictor.rules.video_features, upload.video, upload.audio, upload.vid, "the upload"
        )
        await unless_gone(request, search.add(features, upload.duration))
        return facts(upload.vid)

    @app.delete("/v1/videos/{vid:path}", status_code=204, responses=ERRORS | NOT_FOUND)
    async def delete(vid: str) -> None:
        """Forget a video that was uploaded, or drop it from the index."""
        await search.delete(vid)

    @app.api_route("/v1/media/{vid:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def play(vid: str) -> Response:
        path = media.path(vid)
        if path is None or not path.is_file():
            return refuse(404, f"no media file of video {vid[:80]!r}")
        return FileResponse(path)


def _offer_state(app: FastAPI, search: Search, metrics: Metrics) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthy() -> dict[str, str]:
        """Whether the process lives."""
        return {"status": "ok"}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", responses={503: ERRORS[503]})
    async def ready() -> Any:
        """Whether it is warm and answers."""
        return {"status": "ready"} if search.ready else refuse(503, "warming up")

    @app.get("/metrics", response_class=Response, responses={401: ERRORS[401]})
    async def figures() -> Response:
        """For Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _offer_page(app: FastAPI) -> None:
    def offer(path: str, reply: Response) -> None:
        @app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
        async def same() -> Response:
            return reply

    for path, (name, kind) in PAGE.items():
        content = (files("img_deploy.server.page") / name).read_bytes()
        offer(path, Response(content, media_type=kind, headers={"Content-Security-Policy": POLICY}))


def remarks_of(found: Found) -> list[str]:
    """What should be known of the query and of odd features, a line each."""
    query, remarks = found.query, list(found.remarks)
    if query is not None and query.cut:
        remarks.append(f"only the first {query.words} words are used, {query.cut} are not")
    if query is not None and query.unknown:
        words = ", ".join(query.unknown)
        remarks.append(f"none of its words is known: {words}" if query.all_unknown else f"words not known: {words}")
    return remarks


def _tokens(rows: list[list[float]]) -> Any:
    if len(set(map(len, rows))) > 1:
        raise FeatureError("tokens: got rows of different widths, expected the same for each token")
    return np.array(rows, float)


class _GroundRoute(APIRoute):
    """Described by FastAPI, but run without its dependencies and stacks: the event loop has a fifth less to do."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not re.fullmatch(r"application/(.*\+)?json", kind):
            raise HTTPException(422, f"Content-Type: got {kind[:80]!r}, expected application/json")
        try:
            body = Ground.model_validate_json(await request.body())
        except ValidationError as error:
            if error.error_count() > MOST_PROBLEMS:
                raise HTTPException(422, f"got {error.error_count()} problems, expected a question") from None
            raise RequestValidationError(error.errors()) from None
        reply = await self.endpoint(request, body)
        await reply(scope, receive, send)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """What the work gives; it is cancelled as soon as the client has gone away."""

    async def leave(task: asyncio.Task) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        task.cancel()

    gone = asyncio.create_task(leave(cast(asyncio.Task, asyncio.current_task())))
    try:
        return await work
    except asyncio.CancelledError:
        if gone.done():
            raise ClientDisconnect from None
        raise
    finally:
        gone.cancel()
