"""A graph of the network at fixed sizes, on the host or captured as a CUDA graph. Not yet run on a GPU."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from img_deploy.model.branches import side_by_side
from img_deploy.model.graphs import GraphSpec
from img_deploy.runtime.backends.buckets import Bucket
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.device_run import DeviceRun, columns
from img_deploy.runtime.backends.padded import host_dtype
from img_deploy.runtime.backends.protocol import Feeds, Outputs
from img_deploy.runtime.backends.triton.batch_limit import watched
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork
from img_deploy.runtime.backends.triton.side_streams import SideStreams

Results = TypeVar("Results", bound=Sequence[Tensor])

WARM_UPS = 2
"""Runs before a capture: kernels compile and libraries make their handles in them."""


class StaticRun(DeviceRun):
    """One graph of the network at fixed sizes; computes without a capture. For one thread at a time.

    On the host, it is what a captured run is on a GPU: the same memory, padding and kernels.

    Args:
        packed: the network; spec: which of its graphs; bucket: at which sizes.
    """

    def __init__(self, packed: PackedNetwork, spec: GraphSpec, bucket: Bucket) -> None:
        self.packed, pinned = packed, packed.device.type == "cuda"
        inputs, host = {}, {}
        for each in spec.inputs:
            kind = packed.storage if each.dtype == "float" else getattr(torch, each.dtype)
            held = getattr(torch, host_dtype(each, packed.precision).name)
            inputs[each.name] = torch.zeros(bucket.shape(each), dtype=kind, device=packed.device)
            host[each.name] = torch.zeros(bucket.shape(each), dtype=held, pin_memory=pinned)
        back = torch.empty(dict(bucket.sizes)["batch"] * columns(spec, bucket), pin_memory=pinned)
        super().__init__(spec, bucket, inputs, host, back)

    def __call__(self, feeds: Feeds, sizes: Mapping[str, int]) -> Outputs:
        """Outputs of samples that fit the bucket, of the sizes that they have. Raises OutOfMemory."""
        with watched():
            return super().__call__(feeds, sizes)

    def compute(self) -> Sequence[Tensor]:
        return self.packed(self.spec.name, list(self.inputs.values()))


class CaptureStream:
    """A stream, the memory that graphs captured on it share, and streams for their branches.

    Runs of one stream follow each other, so they may share memory; those of two streams overlap.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.side = SideStreams()


class CapturedRun(StaticRun):
    """A graph of the network at one bucket, ready to be replayed. For one thread at a time.

    Raises OutOfMemory where the sizes do not fit.
    """

    def __init__(self, packed: PackedNetwork, spec: GraphSpec, bucket: Bucket, stream: CaptureStream) -> None:
        with watched():
            super().__init__(packed, spec, bucket)
            self._stream, self._done = stream, torch.cuda.Event()
            self._graph, self._results = captured(super().compute, stream)

    def on_stream(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream.stream)

    def compute(self) -> Sequence[Tensor]:
        self._graph.replay()
        return self._results

    def wait(self) -> None:
        self._done.record(self._stream.stream)
        self._done.synchronize()  # other threads run meanwhile


def captured(run: Callable[[], Results], stream: CaptureStream) -> tuple[Any, Results]:
    """Warm up and capture. Returns the CUDA graph and the tensors that each replay writes."""
    own = stream.stream
    with capturing, side_by_side(stream.side):
        own.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(own):
            for _ in range(WARM_UPS):
                run()
        own.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate and copy meanwhile: only this one's own calls can spoil its capture.
        with torch.cuda.graph(graph, stream.pool, own, capture_error_mode="thread_local"):
            outputs = run()
        return graph, outputs
