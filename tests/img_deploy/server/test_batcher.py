"""The batcher alone, with stages of the test's own."""

import asyncio
import os
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from img_deploy.server.batcher import Batcher, BusyError, Stage


def with_batcher(body, run=lambda items, key: [(one, key) for one in items], length=len, **options):
    """What ``body(batcher)`` gives; ``run`` and ``length`` are those of its stages, "work" and "finish"."""
    settings = {"batch_size": 4, "window": 0.01, "most_requests": 100} | options

    async def all_of_it():
        batcher = Batcher(dict.fromkeys(("work", "finish"), Stage(run, length)), **settings)
        batcher.start()
        try:
            return await asyncio.wait_for(body(batcher), 20)
        finally:
            await batcher.stop()

    return asyncio.run(all_of_it())


def computed_while_busy(body):
    """Items in the order in which they are computed, in ``body(batcher, begin)``.

    ``await begin(batcher)`` gives a request for "first", which is being computed, and what lets it end.
    """
    held, computed = threading.Event(), []

    def run(contents, _):
        computed.extend(contents)
        held.wait(10)
        return contents

    async def begin(batcher):
        first = asyncio.create_task(batcher.run("work", ["first"]))
        while not computed:
            await asyncio.sleep(0.001)
        return first, held.set

    with_batcher(lambda batcher: body(batcher, begin), run)
    return computed


@given(st.lists(st.tuples(st.text(max_size=40), st.integers(0, 2)), max_size=60), st.integers(1, 8), st.integers(1, 3))
def test_every_item_gets_its_own_result(items, batch_size, threads):
    """An answer would go to somebody else."""
    batches = []

    def run(contents, key):
        batches.append((contents, key))
        return [(one, key) for one in contents]

    async def body(batcher):
        results = await asyncio.gather(*(batcher.run("work", [content], key) for content, key in items))
        return [one for [one] in results]

    assert with_batcher(body, run, batch_size=batch_size, window=0, threads=threads) == items
    for contents, _ in batches:
        assert len(contents) <= batch_size
        assert max(map(len, contents)) <= 4 * max(1, min(map(len, contents)))


def test_items_that_come_together_run_together():
    """Every request would pay for a run of its own."""
    sizes = []

    async def body(batcher):
        await asyncio.gather(*(batcher.run("work", ["abc"]) for _ in range(8)))

    with_batcher(body, heard=lambda stage, items, _: sizes.append((stage, items)))
    assert sizes == [("work", 4), ("work", 4)]


def test_each_thread_has_a_batch_of_its_own():
    """One core would compute, and the others wait for it."""
    both = threading.Barrier(2, timeout=10)

    def run(contents, key):
        both.wait()
        return [(one, key) for one in contents]

    async def body(batcher):
        return await asyncio.gather(batcher.run("work", ["a"], 1), batcher.run("work", ["b"], 2))

    assert with_batcher(body, run, threads=2) == [[("a", 1)], [("b", 2)]]


def test_threads_share_what_waits():
    """One would have a long batch, and the others nothing to do."""
    both, first_ones = threading.Barrier(2, timeout=10), iter(range(2))

    def run(contents, _):
        if next(first_ones, None) is not None:
            both.wait()  # passes only while the other thread has a batch too
        return contents

    async def body(batcher):
        return await batcher.run("work", list("abcdefgh"))

    assert with_batcher(body, run, threads=2, batch_size=16) == list("abcdefgh")


def test_threads_go_on_while_the_event_loop_is_busy():
    """Cores would wait for one another's replies to be written."""
    done = threading.Event()

    def run(contents, _):
        if contents == ["last"]:
            done.set()
        return contents

    async def body(batcher):
        waiting = [asyncio.create_task(batcher.run("work", [one], one)) for one in ("first", "second", "last")]
        await asyncio.sleep(0)
        assert done.wait(10)  # the event loop does nothing else meanwhile
        return await asyncio.gather(*waiting)

    assert with_batcher(body, run, window=0) == [["first"], ["second"], ["last"]]


def test_a_request_waits_for_others_once():
    """Each stage of a request would wait again, though nobody came."""

    async def body(batcher):
        return await batcher.run("work", ["a"], begun=time.monotonic() - 60)

    assert with_batcher(body, window=60) == [("a", None)]


@pytest.mark.parametrize("stage", ["work", "finish"])
def test_the_request_that_began_first_goes_first_at_every_stage(stage):
    """New requests would overtake those that are nearly done, and the slowest answers would take longer still."""

    async def body(batcher, begin):
        begun = time.monotonic()
        first, go_on = await begin(batcher)
        young = asyncio.create_task(batcher.run("work", ["young"], "young"))
        await asyncio.sleep(0.01)
        old = asyncio.create_task(batcher.run(stage, ["old"], begun=begun))
        await asyncio.sleep(0)
        go_on()
        await asyncio.gather(first, young, old)

    assert computed_while_busy(body) == ["first", "old", "young"]


def test_what_its_caller_has_left_is_not_computed():
    """Clients that gave up would keep the machine busy."""

    async def body(batcher, begin):
        first, go_on = await begin(batcher)
        left = asyncio.create_task(batcher.run("work", ["left"]))
        stays = asyncio.create_task(batcher.run("work", ["stays"]))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        go_on()
        await asyncio.gather(first, stays)
        assert left.cancelled()

    assert computed_while_busy(body) == ["first", "stays"]


def test_a_failed_batch_fails_its_items_alone():
    """One failure would stop the server, or leave its callers waiting for ever."""

    def run(contents, key):
        if key == "bad":
            raise ValueError("broken")
        return contents

    async def body(batcher):
        results = await asyncio.gather(
            batcher.run("work", ["a", "b"], "bad"), batcher.run("work", ["c"]), return_exceptions=True
        )
        return results, await batcher.run("work", ["d"])

    [failed, good], later = with_batcher(body, run)
    assert isinstance(failed, ValueError)
    assert (good, later) == (["c"], ["d"])


def test_no_more_requests_than_said():
    """A flood would fill the memory."""

    async def body(batcher):
        with batcher.admitted(), batcher.admitted(), pytest.raises(BusyError, match="2 requests"), batcher.admitted():
            pass
        with batcher.admitted():
            return batcher.requests

    assert with_batcher(body, most_requests=2) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="cores and priorities of threads are Linux's")
@pytest.mark.parametrize("spare", [0, 1])
def test_threads_that_take_all_cores_let_the_event_loop_go_first(spare):
    """Replies would wait behind batches, and batches for each other on one core beside an idle one."""
    cores, began, seen = os.sched_getaffinity(0), threading.Barrier(len(os.sched_getaffinity(0)) + spare), []

    def run(contents, _):
        began.wait(10)  # each thread has one
        seen.append((os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))
        return contents

    async def body(batcher):
        return await batcher.run("work", list(range(len(cores) + spare)))

    with_batcher(body, run, length=lambda _: 1, batch_size=1, threads=len(cores) + spare)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    if spare:
        assert seen == [(cores, own)] * (len(cores) + spare)
    else:
        assert sorted(seen, key=str) == sorted((({core}, own + 5) for core in cores), key=str)
    assert os.sched_getaffinity(0) == cores
