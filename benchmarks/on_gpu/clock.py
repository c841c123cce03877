"""How work is timed on a GPU. On a CPU it is run once: that shows that it works, and gives no figure."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from img_deploy.benchmarks.timing import MIN_ROUNDS, Effort, Stopwatch, no_collection, summarize

Call = Callable[[], object]
Figures = dict[str, float]
"""Milliseconds, among them the median ``p50``."""
QUANTILES = {"p20": 0.2, "p50": 0.5, "p80": 0.8}
IN_A_ROW = 50
"""Calls between two events that measure throughput, at most; fewer where those take longer than the time given."""


class Clock:
    """Times on the current CUDA device; every figure is None where ``device`` is ``cpu``."""

    def __init__(self, device: str) -> None:
        self.device, self.on_cuda = device, device == "cuda"

    def graphed(self, call: Call) -> Figures | None:
        """One call without the host's part: many of them in one CUDA graph, inputs in the L2 cache."""
        if not self.on_cuda:
            return _once(call)
        from triton.testing import do_bench_cudagraph

        return dict(zip(QUANTILES, do_bench_cudagraph(call, quantiles=list(QUANTILES.values())), strict=True))

    def launched(self, call: Call) -> Figures | None:
        """One call with its launches, between two events, the L2 cache emptied before."""
        if not self.on_cuda:
            return _once(call)
        from triton.testing import do_bench

        return dict(zip(QUANTILES, do_bench(call, 10, 50, quantiles=list(QUANTILES.values())), strict=True))

    def latency(self, calls: Sequence[Call], seconds: float = 0.3) -> Figures | None:
        """From a call to the end of its work, on the host's clock, the device idle before it; calls rotate."""
        if not self.on_cuda:
            return _once(calls[0])
        times = []
        for call in calls:
            call()
        with no_collection():
            for number in Effort(seconds).rounds():
                torch.cuda.synchronize()
                watch = Stopwatch()
                calls[number % len(calls)]()
                torch.cuda.synchronize()
                times.append(watch.lap())
        return summarize(times).as_dict()

    def streaming(self, calls: Sequence[Call], seconds: float = 0.3) -> Figures | None:
        """Time per call where each is made without waiting for the one before."""
        if not self.on_cuda:
            return _once(calls[0])
        watch = Stopwatch()
        for call in calls:
            call()
        torch.cuda.synchronize()
        each = watch.lap() / len(calls)
        in_a_row = max(len(calls), min(IN_A_ROW, int(seconds * 1000 / MIN_ROUNDS / each)))
        times = []
        for _ in Effort(seconds).rounds():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for number in range(in_a_row):
                calls[number % len(calls)]()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / in_a_row)
        return summarize(times).as_dict()

    def overlapped(self, calls: Sequence[Call], seconds: float = 0.3) -> Figures | None:
        """Time per call where each is made by one of two threads and waits for its own end alone."""
        if not self.on_cuda:
            return _once(calls[0])
        with ThreadPoolExecutor(2) as pool:

            def round_of(count: int) -> float:
                watch = Stopwatch()
                list(pool.map(lambda number: calls[number % len(calls)](), range(count)))
                return watch.lap() / count

            round_of(4 * len(calls))  # both threads' first runs, which capture
            each = round_of(4 * len(calls))
            count = max(4 * len(calls), int(seconds * 1000 / MIN_ROUNDS / each))
            with no_collection():
                times = [round_of(count) for _ in Effort(seconds).rounds()]
        return summarize(times).as_dict()


def _once(call: Call) -> Figures | None:
    call()
    return None
