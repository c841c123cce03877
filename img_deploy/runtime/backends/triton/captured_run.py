"""A graph of the network at fixed sizes, on the host or captured as a CUDA graph. Not yet run on a GPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from img_deploy.model.branches import side_by_side
from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.buckets import Bucket
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.padded import Arrays, host_dtype
from img_deploy.runtime.backends.triton.batch_limit import watched
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork
from img_deploy.runtime.backends.triton.side_streams import SideStreams

WARM_UPS = 2
"""Runs before a capture: kernels compile and libraries make their handles in them."""


class StaticRun:
    """One graph of the network at fixed sizes; computes on the host, without a capture. For one thread at a time.

    What a captured run is on a GPU, for machines without one: the same buffers, padding and kernels.

    Args:
        packed: the network; spec: which of its graphs; bucket: at which sizes.
        pinned: whether a GPU copies from and to the buffers.
    """

    def __init__(self, packed: PackedNetwork, spec: GraphSpec, bucket: Bucket, pinned: bool = False) -> None:
        self.packed, self.spec, self._pinned = packed, spec, pinned
        self.host_in, self.inputs = self._buffers(spec.inputs, bucket)
        self.host_out, self._outputs = self._buffers(spec.outputs, bucket)

    def _buffers(self, tensors: tuple[TensorSpec, ...], bucket: Bucket) -> tuple[dict[str, Tensor], Arrays]:
        """Zeroed memory on the host, by name, as PyTorch and as NumPy sees it."""
        kinds = {each.name: getattr(torch, host_dtype(each, self.packed.precision).name) for each in tensors}
        held = {
            each.name: torch.zeros(bucket.shape(each), dtype=kinds[each.name], pin_memory=self._pinned)
            for each in tensors
        }
        return held, {name: tensor.numpy() for name, tensor in held.items()}

    def __call__(self) -> Arrays:
        """From ``inputs`` to outputs, which the next call overwrites. Raises OutOfMemory."""
        with watched():
            self.compute()
        return self._outputs

    def compute(self) -> None:
        """From ``host_in`` to ``host_out``."""
        inputs = [self.host_in[each.name].to(self._dtype(each)) for each in self.spec.inputs]
        for buffer, value in zip(self.host_out.values(), self.packed(self.spec.name, inputs), strict=True):
            buffer.copy_(value)

    def _dtype(self, tensor: TensorSpec) -> torch.dtype:
        dtype: torch.dtype = self.packed.storage if tensor.dtype == "float" else getattr(torch, tensor.dtype)
        return dtype


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
            super().__init__(packed, spec, bucket, pinned=True)
            self._stream = stream
            self._inputs = [self.host_in[each.name].to(packed.device, self._dtype(each)) for each in spec.inputs]
            self._graph, self._results = captured(lambda: packed(spec.name, self._inputs), stream)

    def compute(self) -> None:
        """Copies, replay and copies back, all on the stream; returns when they are done."""
        done = torch.cuda.Event()
        with torch.cuda.stream(self._stream.stream):
            for own, host in zip(self._inputs, self.host_in.values(), strict=True):
                own.copy_(host, non_blocking=True)
            self._graph.replay()
            for host, own in zip(self.host_out.values(), self._results, strict=True):
                host.copy_(own, non_blocking=True)
            done.record()
        done.synchronize()  # other threads run meanwhile


def captured(run: Callable[[], tuple[Tensor, ...]], stream: CaptureStream) -> tuple[Any, tuple[Tensor, ...]]:
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
