"""Servers of small bundles, in this process or as one of their own."""

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
import httpx

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


@contextmanager
def process(*arguments, token=None):
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
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(base_url=url, timeout=30, headers=headers) as client:
            for _ in range(300):
                if client.get("/readyz").status_code == 200:
                    break
                threading.Event().wait(0.1)
            yield SimpleNamespace(process=started, url=url, client=client, lines=lines, told=told)
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(30)
        reader.join(10)


@pytest.fixture
def server_process(bundles):
    """Context manager: :func:`process` with the tiny GloVe bundle."""
    return lambda *arguments, **kept: process("--bundle", bundles["tiny_glove"], *arguments, **kept)
