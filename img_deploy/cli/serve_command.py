"""``img-deploy serve``: answer over HTTP, with a page to try it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from img_deploy.hardware import MOST_THREADS


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)


def serve(
    bundle: Annotated[Path, typer.Option(help="Folder made by `img-deploy export`.")] = Path("deploy"),
    index: Annotated[
        str | None,
        typer.Option(help="An index to answer about; uploaded videos are added to it. Default: uploads alone."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="A folder of features to answer about, instead of an index; as for `infer`.")
    ] = None,
    media: Annotated[
        Path | None, typer.Option(help="Folder with VID.mp4, VID.webm, ...: the page plays them. Default: none.")
    ] = None,
    durations: Annotated[
        Path | None, typer.Option(help="Video lengths in seconds, as for `infer`. Default: those in the index.")
    ] = None,
    clip_seconds: Annotated[
        float | None, typer.Option(help="Seconds per clip of the features, where no length is known.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; other machines reach 0.0.0.0.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File of the token that requests must bear; needed where other machines can connect."),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let other machines connect without a token.")] = False,
    backend: Annotated[
        str, typer.Option(help="auto (the fastest that works here), or one that `doctor` lists.")
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST_THREADS, help="CPU threads of each worker, a batch on each. Default: one per core."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that answer. More than one take uploads into an index alone.")
    ] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Most items of different requests that run together.")] = 16,
    window_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds that an idle server waits for companions of an item.")
    ] = 2,
    most_requests: Annotated[
        int, typer.Option(min=1, help="Requests that may be computed or wait at once; others get 503.")
    ] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 30,
    most_body_mb: Annotated[int, typer.Option(min=1, help="Megabytes (10^6 bytes) of a request's body.")] = 64,
    most_uploads: Annotated[
        int, typer.Option(min=0, help="Uploaded videos kept in memory, where there is no index.")
    ] = 1000,
    cache_mb: Annotated[int, typer.Option(min=0, help="Megabytes of encoded videos kept in memory.")] = 256,
) -> None:
    """Answer over HTTP: moments of sentences in videos, under /v1, and a page to try it at /.

    Requests that come together are computed together; an answer is the same whatever others ask. Listens on this
    machine alone unless told otherwise. Stops on SIGTERM or Ctrl-C once what was begun is answered.

    Exit code 0: stopped; 1: the backend or the address does not work; 2: wrong input.
    """
    given: dict[str, Any] = dict(locals())  # the options have the names of the settings, but for their units
    given["window"] = given.pop("window_ms") / 1000
    for name, renamed in (("most_body_mb", "most_body"), ("cache_mb", "cache_bytes")):
        given[renamed] = given.pop(name) * 1_000_000
    from pydantic import ValidationError

    from img_deploy.errors import InputError, validation_problems
    from img_deploy.server.settings import ServerSettings

    try:
        from img_deploy.server.running import serve as run
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install 'img-deploy[serve]'") from None
    try:
        settings = ServerSettings(**given)
    except ValidationError as error:
        raise InputError(validation_problems(error)) from None
    run(settings)
