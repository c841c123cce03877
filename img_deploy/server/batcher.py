"""Items of different requests computed together: one queue per stage, a batch at a time in each of some threads.

An item never changes its result for its neighbours, so requests of strangers may share a batch. Nothing here knows
HTTP or networks.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from img_deploy.errors import ImgDeployError

Heard = Callable[[str, int, float], None]
"""Told of each batch: stage, items, seconds."""


class BusyError(ImgDeployError):
    """Too much is asked at once, or takes too long: the same may work later."""


@dataclass(frozen=True)
class Stage:
    """One kind of work.

    Args:
        run: items of one key -> a result each, in order; runs in a worker thread, beside those of other batches.
        length: how long an item is; a batch holds items of similar length.
    """

    run: Callable[[list[Any], Any], Sequence[Any]]
    length: Callable[[Any], int]


@dataclass(eq=False)
class _Item:
    content: Any
    key: Hashable
    length: int
    future: asyncio.Future
    due: float
    """Until when it may wait for others. Items go in this order."""


class Batcher:
    """Runs items of the same stage and key, of similar length, in one batch.

    Items of requests that begin within ``window`` seconds of the first, or that come while all threads compute other
    batches, run together. Start it inside a running event loop, and use it from there alone.

    Args:
        stages: by name.
        batch_size: most items of a batch.
        most_requests: see :meth:`admitted`.
        threads: batches at once.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage],
        batch_size: int,
        window: float,
        most_requests: int,
        heard: Heard = lambda *_: None,
        threads: int = 1,
    ) -> None:
        self.stages, self.batch_size, self.window, self.most_requests = stages, batch_size, window, most_requests
        self.requests = 0
        """That are admitted now."""
        self._heard = heard
        self._queues: dict[str, deque[_Item]] = {name: deque() for name in stages}
        self._arrived = asyncio.Event()
        self._threads, self._free = ThreadPoolExecutor(threads, "batches"), asyncio.Semaphore(threads)
        self._task: asyncio.Task | None = None

    @property
    def waiting(self) -> int:
        """Items in the queues."""
        return sum(map(len, self._queues.values()))

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count as one of the ``most_requests``. Raises BusyError: there are as many already.

        This bounds the queues too: what a request adds at once is for the caller to bound.
        """
        if self.requests >= self.most_requests:
            raise BusyError(f"the server is busy with {self.requests} requests, its most; ask again later")
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def run(
        self, stage: str, contents: Sequence[Any], key: Hashable = None, begun: float | None = None
    ) -> list[Any]:
        """The result of each item, in order. An item whose caller is cancelled is dropped before its batch begins.

        Args:
            begun: when the request began, on the clock of ``time.monotonic``: it waits for others once, not at every
                stage, and goes before requests that began later, at whatever stage. Default: now.
        """
        loop, length = asyncio.get_running_loop(), self.stages[stage].length
        due = (time.monotonic() if begun is None else begun) + self.window
        items = [_Item(one, key, length(one), loop.create_future(), due) for one in contents]
        self._queues[stage].extend(items)
        self._arrived.set()
        try:
            return await asyncio.gather(*(item.future for item in items))
        finally:
            for item in items:
                item.future.cancel()

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Drop what waits, and end once the batches at work are done."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for queue in self._queues.values():
            for item in queue:
                item.future.cancel()
        await asyncio.to_thread(self._threads.shutdown)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as at_work:
            while True:
                await self._arrived.wait()
                due = min((queue[0].due for queue in self._queues.values() if queue), default=0.0)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                self._arrived.clear()
                await self._free.acquire()
                while (found := self._next()) is not None:
                    at_work.create_task(self._compute(*found))
                    await self._free.acquire()
                self._free.release()

    def _next(self) -> tuple[str, list[_Item]] | None:
        """The batch of the request that has waited longest: items of its key and of similar length."""
        for name, queue in self._queues.items():
            self._queues[name] = deque(item for item in queue if not item.future.done())
        stage = min(
            (name for name, queue in self._queues.items() if queue),
            key=lambda name: self._queues[name][0].due,
            default=None,
        )
        if stage is None:
            return None
        queue = self._queues[stage]
        first = queue[0]
        # Of similar length: no longer than twice, so that at most half of a batch is padding.
        alike = [item for item in queue if item.key == first.key and _similar(item.length, first.length)]
        batch = sorted(alike, key=lambda item: abs(item.length - first.length))[: self.batch_size]
        chosen = set(map(id, batch))
        self._queues[stage] = deque(item for item in queue if id(item) not in chosen)
        return stage, batch

    async def _compute(self, name: str, batch: list[_Item]) -> None:
        begun = time.monotonic()
        run, contents = self.stages[name].run, [item.content for item in batch]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._threads, run, contents, batch[0].key)
        except asyncio.CancelledError:
            for item in batch:
                item.future.cancel()
            raise
        except Exception as error:
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
            return
        finally:
            self._free.release()
        self._heard(name, len(batch), time.monotonic() - begun)
        for item, result in zip(batch, results, strict=True):
            if not item.future.done():
                item.future.set_result(result)


def _similar(one: int, other: int) -> bool:
    return max(one, other) <= 2 * max(1, min(one, other))
