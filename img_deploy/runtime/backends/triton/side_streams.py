"""Independent branches of the network on CUDA streams of their own, so that a captured graph runs them side by side."""

from collections.abc import Callable
from typing import Any

import torch


class SideStreams:
    """What :func:`img_deploy.model.branches.side_by_side` takes on a GPU.

    The last branch runs on the stream that calls, each other one on a stream of its own that first waits for what the
    caller has queued; the caller waits for all of them. Branches of branches have streams of their own too, which no
    other branch of the outermost call uses: it would wait for what was queued there. The inputs of the branches are
    held by their closures until then, and a side stream's memory is used again only by that stream, after it has waited
    once more. So no memory changes hands while another stream may still read it. Streams are made as they are needed,
    before any capture: in the runs that warm up.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._streams: list[Any] = []
        self._taken = 0  # streams of the outermost call in progress

    def __call__(self, *parts: Callable[[], Any]) -> list[Any]:
        main, first = self._cuda.current_stream(), self._taken
        self._taken += len(parts) - 1
        while len(self._streams) < self._taken:
            self._streams.append(self._cuda.Stream())
        try:
            return self._side_by_side(main, self._streams[first : self._taken], parts)
        finally:
            if first == 0:
                self._taken = 0

    def _side_by_side(self, main: Any, own: list[Any], parts: tuple[Callable[[], Any], ...]) -> list[Any]:
        results = []
        for side, part in zip(own, parts[:-1], strict=True):
            side.wait_stream(main)
            with self._cuda.stream(side):
                results.append(part())
        results.append(parts[-1]())
        for side in own:
            main.wait_stream(side)
        return results
