"""Starting and stopping: everything is opened, and wrong settings are refused, before the first connection."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

import uvicorn

from img_deploy.durations import read_durations
from img_deploy.errors import ImgDeployError, InputError
from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.hardware import usable_cpus
from img_deploy.runtime.asking import unused
from img_deploy.runtime.index import VideoIndex
from img_deploy.runtime.predictor import Predictor, load_bundle
from img_deploy.server.app import make_app
from img_deploy.server.media import Media
from img_deploy.server.search import Search
from img_deploy.server.settings import ServerSettings
from img_deploy.server.shelf import Shelf
from img_deploy.server.watch import LOG, Metrics, log_to_stderr

SETTINGS = "IMG_DEPLOY_SERVER"
"""The variable that brings the settings, as JSON, to the workers."""
SWITCH = 0.001
"""Seconds for which a batch's Python may keep the event loop waiting; Python's own 5 ms add up within a request."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def serve(settings: ServerSettings) -> None:
    """Answer until a signal says to stop; what is being answered then is answered.

    Raises:
        InputError, BackendError: something that the settings name is wrong or does not work.
        ImgDeployError: it cannot listen at the address.
    """
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": int(settings.timeout) + 5,
    }
    settings.token()  # refuses what is not safe before any work
    log_to_stderr()
    try:
        _run(settings, options)
    except SystemExit:  # uvicorn's, with a code of its own
        raise ImgDeployError(
            f"--host {settings.host} --port {settings.port}: cannot listen there, the log above says why; give others"
        ) from None


def _run(settings: ServerSettings, options: dict[str, Any]) -> None:
    if settings.workers > 1:
        # What is wrong is refused here, once: workers that cannot start are started again without end.
        application_of(settings).state.predictor.close()
        os.environ[SETTINGS] = settings.model_dump_json()
        # A worker that does not answer its parent for so long is killed; five seconds may pass on a busy machine.
        options["timeout_worker_healthcheck"] = int(settings.timeout) + 5
        uvicorn.run(f"{__name__}:worker", factory=True, workers=settings.workers, **options)
        return
    application = _own_process(settings)
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda *_: None)  # uvicorn raises the signal once more after it has stopped
    uvicorn.Server(uvicorn.Config(application, **options)).run()


def worker() -> Any:
    """The application of one of several processes. It stops with the one that started it, even if that was killed."""
    log_to_stderr()
    threading.Thread(target=_stop_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    return _own_process(ServerSettings.model_validate_json(os.environ[SETTINGS]))


def _stop_with(parent: Any) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _own_process(settings: ServerSettings) -> Any:
    """The application, in a process that does nothing else: without pauses that requests would feel."""
    application = application_of(settings)
    sys.setswitchinterval(SWITCH)
    gc.freeze()  # what lives for ever need not be searched for garbage again: that takes 60 ms
    return application


def application_of(settings: ServerSettings) -> Any:
    """The application that settings describe, opened but not yet warm. Raises InputError, BackendError."""
    if settings.index is not None and settings.features is not None:
        raise InputError("--index and --features: got both, expected one of them")
    # A core gains more by a batch of its own than by a share of another's; a GPU takes one at a time.
    predictor = load_bundle(settings.bundle, settings.backend, threads=1)
    batches = (settings.threads or usable_cpus()) if predictor.choice.backend.device == "cpu" else 1
    shared = settings.workers == 1  # workers share no memory: uploads need an index that all of them see
    library, seconds = _library(settings, predictor), {}
    if (told := settings.durations) is not None:
        seconds = read_durations(told)
        if library is not None and (warning := unused(told, seconds, library.videos())) is not None:
            LOG.warning(warning.removeprefix("warning: "))
    shelf = Shelf(
        predictor,
        library,
        seconds,
        settings.clip_seconds,
        settings.most_uploads if shared else 0,
        settings.cache_bytes,
    )
    metrics = Metrics()
    search = Search(
        predictor,
        shelf,
        settings.batch_size,
        settings.window,
        settings.most_requests,
        settings.timeout,
        metrics.batch,
        batches,
    )
    media = None if settings.media is None else Media.in_folder(settings.media)
    hosts = LOOPBACK | {settings.host} if settings.on_loopback else None
    return make_app(search, metrics, media, settings.token(), hosts, settings.most_body)


def _library(settings: ServerSettings, predictor: Predictor) -> FeatureFolder | VideoIndex | None:
    rules = predictor.rules
    if settings.index is not None:
        return VideoIndex.open(settings.index, predictor.bundle)
    if settings.features is not None:
        return open_folder(settings.features, rules.video, rules.audio, max_clips=rules.max_clips)
    return None
