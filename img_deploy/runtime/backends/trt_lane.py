"""What runs one engine for one thread at a time: a stream, fixed memory, and a context per bucket of sizes.

Memory is taken once, for the largest sizes of the engine; every context of a lane works in the same scratch memory,
which is safe because a lane does one thing after another. A context keeps its shapes for good, and what it puts on
the stream is captured into a CUDA graph. Not yet run on a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from img_deploy.errors import BackendError, one_line
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.backends.buckets import Bucket, sizes_of
from img_deploy.runtime.backends.graph_cache import GraphCache
from img_deploy.runtime.backends.trt_engine import OpenEngine
from img_deploy.runtime.backends.trt_shapes import ladders, profile_for, shape_range

if TYPE_CHECKING:
    from torch import Tensor

MOST_BUCKETS = 64
"""Contexts that a lane keeps; the one unused for longest goes first."""


class Stream(Protocol):
    """What a lane needs of :class:`~img_deploy.runtime.backends.cuda_stream.CudaStream`."""

    @property
    def handle(self) -> int: ...
    def device_memory(self, size: int) -> "Tensor": ...
    def host_memory(self, size: int) -> "Tensor": ...
    def copy(self, target: "Tensor", source: "Tensor") -> None: ...
    def captured(self, launch: Callable[[], None]) -> Callable[[], None]: ...
    def wait(self) -> None: ...


class _Memory:
    """Device and pinned host memory of one tensor, as large as the engine lets it grow."""

    def __init__(self, stream: Stream, size: int, dtype: Any) -> None:
        self.dtype = dtype
        self.device, self._host = stream.device_memory(size), stream.host_memory(size)

    def views(self, shape: tuple[int, ...]) -> "tuple[Tensor, Tensor]":
        """Device and host memory of a tensor of this shape."""
        size = prod(shape) * self.dtype.itemsize
        device, host = (memory[:size].view(self.dtype).view(shape) for memory in (self.device, self._host))
        return device, host


@dataclass(frozen=True)
class _Ready:
    """An execution context at fixed sizes; ``launch`` puts its work on the stream."""

    context: Any
    launch: Callable[[], None]


class Lane:
    """Runs one engine. Not for two threads at once."""

    def __init__(self, engine: OpenEngine, stream: Stream, graphs: bool = True) -> None:
        import torch

        self._engine, self._stream, self._graphs = engine, stream, graphs
        self._ladders = ladders(engine.record.profiles)
        self._ready: GraphCache[Bucket, _Ready] = GraphCache(self._open, MOST_BUCKETS)
        self.notes: dict[str, str] = {}
        """What did not go as planned, and why."""
        self.broken = False
        """Whether a run failed halfway: what the lane holds may be anything then."""
        specs = {tensor.name: tensor for tensor in (*engine.spec.inputs, *engine.spec.outputs)}
        self._memory: dict[str, _Memory] = {}
        for name, kind in {**engine.inputs, **engine.outputs}.items():
            dtype = getattr(torch, kind)
            most = max(prod(shape_range(specs[name], profile)[2]) for profile in engine.record.profiles)
            self._memory[name] = _Memory(stream, most * dtype.itemsize, dtype)
        self._specs = specs
        self._scratch = stream.device_memory(max(int(engine.engine.device_memory_size_v2), 1))

    @property
    def most_samples(self) -> int:
        """Largest batch that the engine takes."""
        return self._ladders.most("batch")

    def run(self, feeds: Feeds, rows: slice) -> Outputs:
        """Outputs for those samples of the feeds, at most :attr:`most_samples`; bfloat16 becomes float32.

        Raises:
            BackendError: inputs that do not fit the graph or the engine's profiles, or a run that failed.
        """
        from img_deploy.runtime.backends.static_buffers import cut_all, fill

        spec = self._engine.spec
        batch = {name: value[rows] for name, value in feeds.items()}
        sizes = sizes_of(spec, batch)
        bucket = self._ladders.bucket(spec.name, sizes)
        for name in self._engine.inputs:
            device, host = self._memory[name].views(bucket.shape(self._specs[name]))
            fill(host, batch[name])
            self._stream.copy(device, host)
        # After the inputs: the first run of a context is on them, not on what memory happens to hold.
        self._ready.get(bucket).launch()
        found = {}
        for name in self._engine.outputs:
            device, found[name] = self._memory[name].views(bucket.shape(self._specs[name]))
            self._stream.copy(found[name], device)
        self._wait()
        return cut_all(spec, found, sizes)

    def _wait(self) -> None:
        try:
            self._stream.wait()
        except RuntimeError as error:
            self.broken = True
            reason = one_line(error, 200)
            raise BackendError(f"backend tensorrt: {self._engine.spec.name} failed on the GPU ({reason})") from None

    def _open(self, bucket: Bucket) -> _Ready:
        context = self._context(bucket)

        def enqueue() -> None:
            if not context.execute_async_v3(self._stream.handle):
                raise self._error("could not be started")

        enqueue()  # lets TensorRT and the driver load what they load late; a graph cannot hold that
        self._wait()
        if not self._graphs:
            return _Ready(context, enqueue)
        try:
            return _Ready(context, self._stream.captured(enqueue))
        except RuntimeError as error:
            reason = one_line(error, 200)
            self.notes[f"{self._engine.spec.name}: no CUDA graph"] = reason
            return _Ready(context, enqueue)

    def _context(self, bucket: Bucket) -> Any:
        trt, engine = self._engine.trt, self._engine.engine
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self._error("got no execution context")
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        profile = profile_for(self._engine.record.profiles, dict(bucket.sizes))
        self._check(context.set_optimization_profile_async(profile, self._stream.handle), f"refuses profile {profile}")
        self._stream.wait()
        for name in self._engine.inputs:
            shape = bucket.shape(self._specs[name])
            self._check(context.set_input_shape(name, shape), f"refuses shape {list(shape)} of {name}")
        for name, memory in self._memory.items():
            self._check(context.set_tensor_address(name, memory.device.data_ptr()), f"refuses the address of {name}")
        if unknown := context.infer_shapes():
            raise self._error(f"does not know the shapes of {', '.join(unknown)}")
        for name in self._engine.outputs:
            shape, wanted = tuple(context.get_tensor_shape(name)), bucket.shape(self._specs[name])
            if shape != wanted:
                raise self._error(f"gives {name} the shape {list(shape)}, expected {list(wanted)}")
        return context

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise self._error(what)

    def _error(self, what: str) -> BackendError:
        self.broken = True
        return BackendError(f"backend tensorrt: {self._engine.spec.name} {what}{self._engine.logger.last()}")
