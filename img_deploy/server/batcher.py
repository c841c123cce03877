"""Items of different requests computed together: one queue per stage, a batch at a time in each of some threads.

An item never changes its result for its neighbours, so requests of strangers may share a batch. The threads take their
batches themselves: while the event loop is busy with replies, they go on. Nothing here knows HTTP or networks.
"""

import asyncio
import os
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any

from img_deploy.errors import ImgDeployError

SMALL = 2
"""Items of which a batch may be all that there are. Of more, each thread takes its share, so that none has a long batch
while others have nothing to do: on a CPU, larger batches gain little."""
GIVE_WAY = 5
"""By which threads that take all cores are nicer than the event loop: its work is short, and everyone waits for it."""
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
        self._queues: dict[str, list[_Item]] = {name: [] for name in stages}
        self._changed = Condition()
        """Guards the queues; told of items that arrive, and of the end."""
        self._stopped = False
        self._threads = [
            Thread(target=self._work, args=(one,), name=f"batches_{one}", daemon=True) for one in range(threads)
        ]
        self._loop: asyncio.AbstractEventLoop | None = None

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
        with self._changed:
            queue = self._queues[stage]
            place = bisect_right(queue, due, key=lambda item: item.due)
            queue[place:place] = items
            self._changed.notify()
        try:
            return await asyncio.gather(*(item.future for item in items))
        finally:
            for item in items:
                item.future.cancel()

    def start(self) -> None:
        """Begin to work."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Drop what waits, and end once the batches at work are done."""
        with self._changed:
            self._stopped = True
            waiting = [item for queue in self._queues.values() for item in queue]
            self._changed.notify_all()
        for item in waiting:
            item.future.cancel()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _work(self, number: int) -> None:
        """In each thread: a batch after the other."""
        assert self._loop is not None
        if sys.platform == "linux":  # where both are of a thread, not of the process
            cores = sorted(os.sched_getaffinity(0))
            if len(cores) == len(self._threads):
                os.sched_setaffinity(0, {cores[number]})  # else two may wait on one core while another has no work
                os.nice(GIVE_WAY)
        while (found := self._wait()) is not None:
            name, batch = found
            begun = time.monotonic()
            results: Sequence[Any] | Exception
            try:
                results = self.stages[name].run([item.content for item in batch], batch[0].key)
            except Exception as error:
                results = error
            self._loop.call_soon_threadsafe(self._hand_out, name, batch, results, time.monotonic() - begun)

    def _wait(self) -> tuple[str, list[_Item]] | None:
        """The next batch, as soon as its first item has waited for others; None at the end."""
        with self._changed:
            while not self._stopped:
                due = min((queue[0].due for queue in self._queues.values() if queue), default=None)
                left = None if due is None else due - time.monotonic()
                if left is None or left > 0:
                    self._changed.wait(left)
                elif (found := self._next()) is not None:
                    if self.waiting:
                        self._changed.notify()
                    return found
        return None

    def _next(self) -> tuple[str, list[_Item]] | None:
        """The batch of the request that has waited longest: items of its key and of similar length."""
        for name, queue in self._queues.items():
            self._queues[name] = [item for item in queue if not item.future.done()]
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
        share = max(SMALL, -(-len(alike) // len(self._threads)))
        batch = sorted(alike, key=lambda item: abs(item.length - first.length))[: min(share, self.batch_size)]
        chosen = set(map(id, batch))
        self._queues[stage] = [item for item in queue if id(item) not in chosen]
        return stage, batch

    def _hand_out(self, name: str, batch: list[_Item], results: Sequence[Any] | Exception, seconds: float) -> None:
        """On the event loop: each item its result, or the error of all."""
        if isinstance(results, Exception):
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(results)
            return
        self._heard(name, len(batch), seconds)
        for item, result in zip(batch, results, strict=True):
            if not item.future.done():
                item.future.set_result(result)


def _similar(one: int, other: int) -> bool:
    return max(one, other) <= 2 * max(1, min(one, other))
