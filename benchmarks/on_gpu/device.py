"""How work is timed: with CUDA events on a GPU; on a CPU it is run once and gives no figure."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from img_deploy.benchmarks.timing import Effort, Stopwatch, no_collection, summarize

Figures = dict[str, float]
"""A :class:`~img_deploy.benchmarks.timing.Summary` of milliseconds, as plain values."""
Call = Callable[[], object]

CAPTURE_S = 0.25
"""Host time that the calls of one captured graph may take at most, were they launched one by one."""
MOST_SETS = 512


class Device(Protocol):
    """``cuda``, or ``cpu`` for a run that shows that everything works and measures nothing."""

    kind: str

    def graphed(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        """Milliseconds of one call without the host's part: the calls captured in one CUDA graph, its replays timed
        with events and divided by the number of calls. None: not measured here."""

    def launched(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        """Milliseconds of one call with the host's part: the calls made one after the other between two events."""

    def latency(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        """Milliseconds from a call to its end, on the host's clock, the device idle before it."""

    def throughput(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        """Milliseconds per call where each is made without waiting for the one before."""

    def sets(self, nbytes: int) -> int:
        """How many sets of inputs of so many bytes to rotate among: more than the L2 cache holds."""

    def capture(self, call: Callable[[], Any]) -> tuple[Call, Any]:
        """What repeats a call on the same memory, and what the call gave."""

    def empty_cache(self) -> None:
        """Give memory that is not in use back."""


class Cpu:
    """Runs every call once, so that what would be timed on a GPU is known to work."""

    kind = "cpu"

    def graphed(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        del seconds
        calls[0]()
        return None

    launched = latency = throughput = graphed

    def sets(self, nbytes: int) -> int:
        del nbytes
        return 2

    def capture(self, call: Callable[[], Any]) -> tuple[Call, Any]:
        return call, call()

    def empty_cache(self) -> None:
        """Nothing is kept."""


class Gpu:
    """Times on the current CUDA device.

    Args:
        cuda: stands in for ``torch.cuda`` in tests.
    """

    kind = "cuda"

    def __init__(self, cuda: Any = None) -> None:
        self._cuda = torch.cuda if cuda is None else cuda

    def graphed(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        chosen = calls[: self._worth_capturing(calls)]
        replay, _ = self.capture(lambda: [call() for call in chosen])
        return self._between_events(replay, len(chosen), seconds)

    def launched(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        chosen = calls[: self._worth_capturing(calls)]

        def run() -> None:
            for call in chosen:
                call()

        return self._between_events(run, len(chosen), seconds)

    def latency(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        times = []
        for call in calls[:2]:
            call()
        with no_collection():
            for number in Effort(seconds).rounds():
                self._cuda.synchronize()
                watch = Stopwatch()
                calls[number % len(calls)]()
                self._cuda.synchronize()
                times.append(watch.lap())
        return summarize(times).as_dict()

    def throughput(self, calls: Sequence[Call], seconds: float) -> Figures | None:
        self._cuda.synchronize()
        watch = Stopwatch()
        calls[0]()
        self._cuda.synchronize()
        in_a_row = max(3, min(100, int(1000 * seconds / 5 / max(watch.lap(), 1e-3))))

        def run() -> None:
            for number in range(in_a_row):
                calls[number % len(calls)]()

        return self._between_events(run, in_a_row, seconds)

    def sets(self, nbytes: int) -> int:
        cache = self._cuda.get_device_properties(self._cuda.current_device()).L2_cache_size
        return max(2, min(MOST_SETS, -(-2 * cache // max(nbytes, 1))))

    def capture(self, call: Callable[[], Any]) -> tuple[Call, Any]:
        stream = self._cuda.Stream()
        stream.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(stream):
            call()  # kernels compile, and libraries make their handles
        self._cuda.synchronize()
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph, stream=stream):
            kept = call()
        return graph.replay, kept

    def empty_cache(self) -> None:
        self._cuda.empty_cache()

    def _worth_capturing(self, calls: Sequence[Call]) -> int:
        """How many of the calls fit :data:`CAPTURE_S`, at least two."""
        calls[0]()
        self._cuda.synchronize()
        watch = Stopwatch()
        calls[-1]()
        self._cuda.synchronize()
        return max(2, min(len(calls), int(1000 * CAPTURE_S / max(watch.lap(), 1e-3))))

    def _between_events(self, run: Call, calls: int, seconds: float) -> Figures:
        times = []
        run()
        with no_collection():
            for _ in Effort(seconds).rounds():
                begin, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                run()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) / calls)
        return summarize(times).as_dict()


def device_of(kind: str) -> Device:
    """``cuda`` or ``cpu``."""
    return Gpu() if kind == "cuda" else Cpu()
