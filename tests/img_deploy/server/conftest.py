"""Servers of small bundles, in this process or as one of their own."""

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
import httpx
import uvicorn

from img_deploy.server.running import application_of
from img_deploy.server.settings import ServerSettings

HERE = "http://127.0.0.1"


@asynccontextmanager
async def serving(**settings):
    """A warm server in this event loop -> a client of it."""
    app = application_of(ServerSettings(**{"backend": "torch", "threads": 1, **settings}))
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE, timeout=60)
    async with app.router.lifespan_context(app), client:
        for _ in range(2000):
            if (await client.get("/readyz")).status_code == 200:
                break
            await asyncio.sleep(0.01)
        yield client


@pytest.fixture
def served(bundles):
    """Function: run an async test body ``(client)`` against a server of the tiny GloVe network."""

    def run(body, **settings):
        async def all_of_it():
            async with serving(**{"bundle": bundles["tiny_glove"], **settings}) as client:
                return await asyncio.wait_for(body(client), 120)

        return asyncio.run(all_of_it())

    return run


def wait_until_ready(client):
    for _ in range(600):
        if client.get("/readyz").status_code == 200:
            return
        time.sleep(0.05)
    pytest.fail("the server did not become ready")


@contextmanager
def listening(**settings):
    """A warm server on a free port, in a thread of this process -> url, client, and ``stop``."""
    app = application_of(ServerSettings(**{"backend": "torch", "threads": 1, **settings}))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()

    def stop():
        server.should_exit = True
        thread.join(60)

    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        token = ServerSettings(**settings).token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(base_url=url, timeout=30, headers=headers) as client:
            wait_until_ready(client)
            yield SimpleNamespace(url=url, client=client, stop=stop)
    finally:
        stop()


@contextmanager
def process(*arguments):
    """``img-deploy serve`` on a free port -> process, url and its log lines so far."""
    command = [sys.executable, "-m", "img_deploy.cli.main", "serve", "--port", "0", "--backend", "torch"]
    command += ["--threads", "1", *map(str, arguments)]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    lines: queue.Queue[str] = queue.Queue()
    told: list[dict] = []
    reader = threading.Thread(target=lambda: [lines.put(line) for line in started.stderr], daemon=True)
    reader.start()
    try:
        while True:
            line = lines.get(timeout=60)
            told.append(json.loads(line))
            if "running on" in told[-1]["message"]:
                break
        url = next(word for word in told[-1]["message"].split() if word.startswith("http"))
        patient = httpx.HTTPTransport(retries=7)  # several workers listen only after their address is told
        with httpx.Client(base_url=url, timeout=30, transport=patient) as client:
            wait_until_ready(client)
            yield SimpleNamespace(process=started, url=url, client=client, lines=lines, told=told)
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(30)
        reader.join(10)


@pytest.fixture
def server_process(bundles):
    """Context manager: :func:`process` with the tiny GloVe bundle."""
    return lambda *arguments: process("--bundle", bundles["tiny_glove"], *arguments)


@pytest.fixture
def listening_server(bundles):
    """Context manager: :func:`listening` with the tiny GloVe bundle."""
    return lambda **settings: listening(**{"bundle": bundles["tiny_glove"], **settings})
