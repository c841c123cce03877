"""A graph of the network at fixed sizes, on the host or captured as a CUDA graph."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

from img_deploy.kernels.best_spans import best_spans
from img_deploy.kernels.dispatch import use_ops
from img_deploy.model.branches import branches, side_by_side
from img_deploy.model.graphs import GraphSpec
from img_deploy.runtime.backends.buckets import Bucket
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.device_run import DeviceRun, room
from img_deploy.runtime.backends.encoded_inputs import ENCODED, HOST_BYTES, EncodedInputs
from img_deploy.runtime.backends.padded import host_dtype
from img_deploy.runtime.backends.protocol import Feeds
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork
from img_deploy.runtime.backends.triton.run_outputs import RANGE, gives_logits
from img_deploy.runtime.backends.triton.side_streams import SideStreams

Results = TypeVar("Results")

WARM_UPS = 2
"""Runs before a capture: kernels compile and libraries make their handles in them."""
ALIGNMENT = 256
"""Bytes. Inputs begin at multiples of it, as memory of their own would."""


class StaticRun(DeviceRun):
    """One graph of the network at fixed sizes; computes without a capture. For one thread at a time.

    On the host, it is what a captured run is on a GPU: the same memory, padding and kernels.

    Args:
        packed: the network; spec: which of its graphs, with what :func:`run_spec` adds; bucket: at which sizes.
    """

    def __init__(self, packed: PackedNetwork, spec: GraphSpec, bucket: Bucket) -> None:
        self.packed = packed
        pinned, device, storage = packed.device.type == "cuda", packed.device, packed.storage
        self.inputs: dict[str, Tensor] = {}
        """On the device, at the sizes of the bucket."""
        encoded = []
        if shapes := {each.name: bucket.shape(each) for each in spec.inputs if each.name in ENCODED}:
            width = next(iter(shapes.values()))[-1]
            held = torch.zeros((sum(map(prod, shapes.values())) // width, width), dtype=storage, device=device)
            memory = torch.empty(HOST_BYTES * held.numel(), dtype=torch.uint8, pin_memory=pinned)
            encoded.append(EncodedInputs(shapes, held, memory))
            self.inputs.update(encoded[0].each(held))
        others = [each for each in spec.inputs if each.name not in ENCODED]
        kinds = [getattr(torch, host_dtype(each, packed.precision).name) for each in others]
        sizes = [prod(bucket.shape(each)) * kind.itemsize for each, kind in zip(others, kinds, strict=True)]
        total = sum(map(_aligned, sizes))  # of one piece of memory, which one copy takes to the device
        there = torch.zeros(total, dtype=torch.uint8, device=device)
        here = torch.zeros(total, dtype=torch.uint8, pin_memory=pinned)
        arrays, at = {}, 0
        for each, kind, size in zip(others, kinds, sizes, strict=True):
            ours, own = (memory[at : at + size].view(kind).view(bucket.shape(each)) for memory in (there, here))
            self.inputs[each.name], arrays[each.name] = ours, own.numpy()
            at += _aligned(size)
        back = torch.empty(room(spec, bucket), pin_memory=pinned)
        super().__init__(spec, bucket, arrays, [(there, here)], encoded, back)

    def compute(self) -> Sequence[Tensor]:
        with torch.inference_mode(), use_ops(("best_spans",)):
            with_ranges = RANGE in self.spec.outputs
            ranges, out = branches(self._ranges, self._network) if with_ranges else ((), self._network())
            if not gives_logits(self.spec):
                return out
            spans, scores = best_spans(*out[:2], self.inputs["clip_mask"], 1)
            return *out, *ranges, spans[:, 0], scores

    def _network(self) -> tuple[Tensor, ...]:
        storage = self.packed.storage
        inputs = [self.inputs[each.name] for each in self.spec.inputs]
        return self.packed(self.spec.name, [one.to(storage) if one.is_floating_point() else one for one in inputs])

    def _ranges(self) -> tuple[Tensor, ...]:
        """Of features as they lie here; the zeros beside a sample are among its numbers."""
        features = (self.inputs[name].flatten(1) for name in ("video", "audio"))
        return (torch.stack([end for each in features for end in each.aminmax(dim=1)], dim=1).float(),)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


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

    The copies from and to the host are part of the captured graph. The host waits for its end, and a run that reads
    encoded clips or words waits for PyTorch's current stream, which may still copy them.
    """

    def __init__(self, packed: PackedNetwork, spec: GraphSpec, bucket: Bucket, stream: CaptureStream) -> None:
        super().__init__(packed, spec, bucket)
        self._stream, self._asked, self._done = stream, torch.cuda.Event(), torch.cuda.Event()
        self._graph, self._staying_there = captured(super().launch, stream)

    def start(self, feeds: Feeds) -> Tensor | None:
        # Not ``torch.cuda.stream``, which asks for the current device three times, at 10 microseconds.
        own, device = self._stream.stream, torch.cuda.current_device()
        current = self._current = torch.cuda.current_stream(own.device_index)
        if self.encoded:
            self._asked.record(current)
            own.wait_event(self._asked)
        torch.cuda.set_stream(own)
        try:
            return super().start(feeds)
        finally:
            self._done.record(own)
            torch.cuda.set_stream(current)
            torch.cuda.set_device(device)

    def launch(self) -> Tensor | None:
        self._graph.replay()
        return self._staying_there

    def finish(self, kept: Tensor | None) -> None:
        if kept is not None:
            # It is memory of this run's stream: without this, a later run could be given it, and write there, while
            # the current stream still reads. A grounder, which reads it too, is waited for while its caller holds it.
            kept.record_stream(self._current)
        self.wait()

    def wait(self) -> None:
        self._done.synchronize()  # other threads run meanwhile; done already, if this run was never asked for anything


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
