"""A server on this machine, and requests to it: at times of our choosing (open loop), or from clients that wait."""

import asyncio
import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import numpy as np

from img_deploy.errors import BackendError

ANSWERED = b'{"answers":[{'
Ask = Callable[[int], bytes]
"""Body of a request by its number."""


@dataclass
class Load:
    """What became of some requests."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    """Seconds from the time that a request was due, of those that were answered."""
    refused: int = 0
    generator: float = 0.0
    """Seconds of CPU that the generator itself took."""

    def figures(self) -> dict[str, Any]:
        """Plain values: answered requests per second, milliseconds, and the generator's share of one core."""
        known = np.array(self.latencies or [np.nan]) * 1000
        p50, p99 = (round(float(one), 2) for one in np.percentile(known, (50, 99)))
        return {
            "answered": len(self.latencies),
            "refused": self.refused,
            "per_second": round(len(self.latencies) / self.seconds, 2),
            "p50_ms": p50,
            "p99_ms": p99,
            "generator_cores": round(self.generator / self.seconds, 3),
        }


class Connections:
    """Kept-alive connections to one server, as many as are needed at once. Use them from one event loop."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and content of the reply."""
        alive = [one for one in self._idle if not one[0].at_eof()]  # the server ends those that idle for seconds
        reader, writer = alive.pop() if alive else await asyncio.open_connection(self.host, self.port)
        self._idle = alive
        head = f"POST {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        reply = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(reply.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        content = await reader.readexactly(length)
        self._idle.append((reader, writer))
        return int(reply.split(b" ", 2)[1]), content

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


async def open_loop(connections: Connections, ask: Ask, rate: float, seconds: float, spacing: str) -> Load:
    """``rate`` requests a second for so many seconds, whether or not others are answered.

    Args:
        spacing: ``even``: at equal distances, as wrk2 sends them; ``chance``: at random times (a Poisson process).
    """
    rng, load = random.Random(0), Load()
    gaps = {"even": lambda: 1 / rate, "chance": lambda: rng.expovariate(rate)}[spacing]
    times = list(takewhile(lambda due: due < seconds, accumulate(iter(gaps, None))))

    async def all_of_them(begun: float) -> None:
        async with asyncio.TaskGroup() as sent:
            for number, wanted in enumerate(times):
                await asyncio.sleep(max(0.0, begun + wanted - time.perf_counter()))
                sent.create_task(_one(connections, ask(number), begun + wanted, load))

    return await _timed(load, all_of_them)


async def clients(connections: Connections, ask: Ask, number: int, seconds: float, most: int = 1 << 30) -> Load:
    """So many clients, each of which asks as soon as it is answered, for so long; at most ``most`` requests in all."""
    load, numbers = Load(), iter(range(most))

    async def client(end: float) -> None:
        while time.perf_counter() < end and (one := next(numbers, None)) is not None:
            await _one(connections, ask(one), time.perf_counter(), load)

    async def all_of_them(begun: float) -> None:
        await asyncio.gather(*(client(begun + seconds) for _ in range(number)))

    return await _timed(load, all_of_them)


async def _timed(load: Load, work: Any) -> Load:
    gc.freeze()  # a search of all that the benchmark has loaded would keep requests from being sent in time
    begun, used = time.perf_counter(), time.process_time()
    await work(begun)
    load.seconds, load.generator = time.perf_counter() - begun, time.process_time() - used
    return load


async def _one(connections: Connections, body: bytes, due: float, load: Load) -> None:
    status, content = await connections.post("/v1/ground", body)
    if status == 503:
        load.refused += 1
        return
    if status != 200 or not content.startswith(ANSWERED):
        raise BackendError(f"the server answered {status}: {content[:200]!r}")
    load.latencies.append(time.perf_counter() - due)


async def replies(connections: Connections, bodies: Sequence[bytes], at_once: int) -> list[bytes]:
    """The content of each reply, in order, ``at_once`` requests at a time."""
    found, numbers = [b""] * len(bodies), iter(range(len(bodies)))

    async def client() -> None:
        for one in numbers:
            status, found[one] = await connections.post("/v1/ground", bodies[one])
            if status != 200:
                raise BackendError(f"the server answered {status}: {found[one][:200]!r}")

    await asyncio.gather(*(client() for _ in range(at_once)))
    return found


@dataclass(frozen=True)
class Server:
    """One that answers. ``process`` is a psutil.Process."""

    port: int
    process: Any

    def batches(self) -> dict[str, float]:
        """Of the batches of pairs so far: number (``count``), items (``sum``), and how many of each size, up to it."""
        from prometheus_client.parser import text_string_to_metric_families

        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        samples = [one for family in families if family.name == "img_deploy_batch_items" for one in family.samples]
        kept = [one for one in samples if one.labels.get("stage") == "ground"]
        return {one.labels.get("le") or one.name.rpartition("_")[2]: one.value for one in kept}

    def cpu_seconds(self) -> float:
        """That it has used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def asked(self, work: Callable[[Connections], Coroutine[Any, Any, Any]]) -> Any:
        """What ``work`` gives, over connections that are closed after it."""

        import uvloop

        async def run() -> Any:
            connections = Connections("127.0.0.1", self.port)
            try:
                return await work(connections)
            finally:
                connections.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # a third of the CPU
            return runner.run(run())

    def measured(self, work: Callable[[Connections], Coroutine[Any, Any, Load]]) -> dict[str, Any]:
        """Figures of a load, with the batches of pairs that it made: how many of each size, and the mean size."""
        before, used = self.batches(), self.cpu_seconds()
        load = self.asked(work)
        used = self.cpu_seconds() - used
        made = {name: number - before.get(name, 0) for name, number in self.batches().items()}
        bounds = [name for name in made if name.replace(".", "").isdigit()]
        sizes = {f"{float(b):g}": int(made[b] - made.get(a, 0)) for a, b in pairwise(["", *bounds])}
        return load.figures() | {
            "server_cpu_ms": round(1000 * used / len(load.latencies), 2),
            "mean_batch": round(made["sum"] / made["count"], 1),
            "batches_up_to": sizes,
        }


@contextmanager
def server(bundle: Path, features: Path, *arguments: str) -> Iterator[Server]:
    """``img-deploy serve`` on a free port, warm. Raises BackendError: it does not start."""
    import psutil

    command = [sys.executable, "-m", "img_deploy.cli.main", "serve", "--port", "0", "--bundle", str(bundle)]
    command += ["--features", str(features), "--most-requests", "2048", "--timeout", "600", *arguments]
    with TemporaryDirectory(prefix="img-deploy-serve-") as place, open(Path(place) / "log", "w+b") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            yield Server(_port(process, Path(place) / "log"), psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(60)


def _port(process: subprocess.Popen, log: Path) -> int:
    """Where it listens, once it is ready. Raises BackendError: it has ended."""
    while process.poll() is None:
        time.sleep(0.1)
        lines = [line for line in log.read_text().splitlines() if "running on" in line]
        if lines:
            port = int(json.loads(lines[0])["message"].split("http://")[1].split()[0].rpartition(":")[2])
            try:
                urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10).close()
            except OSError:
                continue
            return port
    raise BackendError(f"the server ended with {process.returncode}: {log.read_text()[-300:]}")
