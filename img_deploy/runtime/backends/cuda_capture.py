"""A graph of the network captured as a CUDA graph, with copies from and to pinned memory. Not yet run on a GPU."""

from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from img_deploy.model.branches import side_by_side
from img_deploy.model.graphs import GraphSpec
from img_deploy.runtime.backends.batch_limit import watched
from img_deploy.runtime.backends.buckets import Bucket
from img_deploy.runtime.backends.packed_network import PackedNetwork
from img_deploy.runtime.backends.side_streams import SideStreams
from img_deploy.runtime.backends.static_buffers import StaticRun

WARM_UPS = 2
"""Runs before a capture: kernels compile and libraries make their handles in them."""

_capturing = Lock()
"""One capture at a time in a process: each waits for the whole device before it begins."""


class Place:
    """Where captured runs of one kind happen: a stream, the memory they share, and streams for branches.

    Runs of one place follow each other on its stream, so they may share memory; those of two places overlap.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.side = SideStreams()


class CapturedRun(StaticRun):
    """A graph of the network at one bucket, ready to be replayed. For one thread at a time.

    Args:
        packed: the network; spec: which of its graphs; bucket: at which sizes.
        place: its stream and memory.

    Raises:
        OutOfMemory: the sizes do not fit.
    """

    def __init__(self, packed: PackedNetwork, spec: GraphSpec, bucket: Bucket, place: Place) -> None:
        with watched():
            super().__init__(packed, spec, bucket, pinned=True)
            self._place = place
            self._inputs = [host.to(packed.device) for host in self.host_in.values()]
            self._graph, self._outputs = captured(lambda: packed(spec.name, self._inputs), place)

    def compute(self) -> None:
        """Copies, replay and copies back, all on the place's stream; returns when they are done."""
        done = torch.cuda.Event()
        with torch.cuda.stream(self._place.stream):
            for own, host in zip(self._inputs, self.host_in.values(), strict=True):
                own.copy_(host, non_blocking=True)
            self._graph.replay()
            for host, own in zip(self.host_out.values(), self._outputs, strict=True):
                host.copy_(own, non_blocking=True)
            done.record()
        done.synchronize()  # other threads run meanwhile


def captured(run: Callable[[], tuple[Tensor, ...]], place: Place) -> tuple[Any, tuple[Tensor, ...]]:
    """Warm up and capture. Returns the CUDA graph and the tensors that each replay writes."""
    with _capturing, side_by_side(place.side):
        place.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(place.stream):
            for _ in range(WARM_UPS):
                run()
        place.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate and copy meanwhile: only this one's own calls can spoil its capture.
        with torch.cuda.graph(graph, place.pool, place.stream, capture_error_mode="thread_local"):
            outputs = run()
        return graph, outputs
