"""What runs one engine for one thread at a time: a stream, fixed memory, and a context per bucket of sizes.

Memory is taken once, for the largest sizes of the engine; every context of a runner works in the same scratch memory,
which is safe because a runner does one thing after another. A context keeps its shapes for good, and what it puts on
the stream is captured into a CUDA graph. Not yet run on a GPU.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from img_deploy.errors import BackendError, one_line
from img_deploy.model.graphs import TensorSpec
from img_deploy.runtime.backends.buckets import Bucket, shape_range, sizes_of
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.device_run import DeviceRun, brought
from img_deploy.runtime.backends.encoded_inputs import ENCODED, HOST_BYTES, EncodedInputs
from img_deploy.runtime.backends.graph_cache import GraphCache
from img_deploy.runtime.backends.padded import parts_of, run_padded
from img_deploy.runtime.backends.protocol import Feeds, Outputs
from img_deploy.runtime.backends.tensorrt.engine import OpenEngine
from img_deploy.runtime.backends.tensorrt.profiles import ladders, most_samples, profile_for

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST_BUCKETS = 64
"""Contexts that a runner keeps; the one unused for longest goes first."""


class Stream(Protocol):
    """What a runner needs of :class:`~img_deploy.runtime.backends.tensorrt.cuda_stream.CudaStream`."""

    @property
    def handle(self) -> int: ...
    def device_memory(self, size: int) -> "Tensor": ...
    def host_memory(self, size: int) -> "Tensor": ...
    def current(self) -> AbstractContextManager[Any]: ...
    def captured(self, launch: Callable[[], None]) -> Callable[[], None]: ...
    def wait(self) -> None: ...


class EngineRunner:
    """Runs one engine. Not for two threads at once."""

    def __init__(self, engine: OpenEngine, stream: Stream, graphs: bool = True) -> None:
        import torch

        self.engine, self.stream, self.graphs = engine, stream, graphs
        self._ladders = ladders(engine.record.profiles)
        self._runs: GraphCache[Bucket, ContextRun] = GraphCache(lambda bucket: ContextRun(self, bucket), MOST_BUCKETS)
        self.notes: dict[str, str] = {}
        """What did not go as planned, and why."""
        self.broken = False
        """Whether a run failed halfway: what the runner holds may be anything then."""
        self.specs: dict[str, TensorSpec] = {each.name: each for each in (*engine.spec.inputs, *engine.spec.outputs)}
        self.types: dict[str, torch.dtype] = {
            name: getattr(torch, kind) for name, kind in {**engine.inputs, **engine.outputs}.items()
        }
        self.memory = {
            name: stream.device_memory(self._most(self.specs[name]) * kind.itemsize)
            for name, kind in self.types.items()
        }
        self.host = {
            name: stream.host_memory(
                self._most(self.specs[name]) * (HOST_BYTES if name in ENCODED else self.host_type(name).itemsize)
            )
            for name in engine.inputs
        }
        most = sum(map(self._most, brought(engine.spec)))
        self.back = stream.host_memory(most * torch.float32.itemsize).view(torch.float32)
        self.scratch = stream.device_memory(max(int(engine.engine.device_memory_size_v2), 1))

    def _most(self, tensor: TensorSpec) -> int:
        """Elements of a tensor as large as the engine lets it grow."""
        return max(prod(shape_range(tensor, profile)[2]) for profile in self.engine.record.profiles)

    def host_type(self, name: str) -> "torch.dtype":
        """What a tensor is on the host. NumPy has no bfloat16: float32 there, converted by the copy."""
        import torch

        return torch.float32 if self.types[name] == torch.bfloat16 else self.types[name]

    def run(self, feeds: Feeds) -> Outputs:
        """Outputs for a batch of any size; bfloat16 becomes float32.

        Raises:
            BackendError: inputs that do not fit the graph or the engine's profiles, or a run that failed.
        """
        spec = self.engine.spec
        most = most_samples(self.engine.record.profiles, sizes_of(spec, feeds))
        return run_padded(spec, self._ladders, feeds, self._runs.get, parts_of(most))

    def wait(self) -> None:
        """Until everything on the stream is done. Raises BackendError where it failed."""
        try:
            self.stream.wait()
        except RuntimeError as error:
            raise self.error(f"failed on the GPU ({one_line(error, 200)})", "") from None

    def error(self, what: str, said: str | None = None) -> BackendError:
        """What went wrong, and what TensorRT said; the runner is not to be used again."""
        self.broken = True
        said = self.engine.logger.last() if said is None else said
        return BackendError(f"backend {self.engine.edition.name}: {self.engine.spec.name} {what}{said}")


class ContextRun(DeviceRun):
    """An execution context at fixed sizes."""

    def __init__(self, runner: EngineRunner, bucket: Bucket) -> None:
        spec = runner.engine.spec

        def sized(name: str, memory: "Tensor", kind: "torch.dtype") -> "Tensor":
            shape = bucket.shape(runner.specs[name])
            return memory[: prod(shape) * kind.itemsize].view(kind).view(shape)

        device = {name: sized(name, memory, runner.types[name]) for name, memory in runner.memory.items()}
        host = {
            name: sized(name, memory, runner.host_type(name))
            for name, memory in runner.host.items()
            if name not in ENCODED
        }
        encoded = [
            EncodedInputs({name: tuple(device[name].shape)}, device[name].flatten(0, 1), runner.host[name])
            for name in runner.host
            if name in ENCODED
        ]
        arrays = {name: memory.numpy() for name, memory in host.items()}
        copies = [(device[name], memory) for name, memory in host.items()]
        super().__init__(spec, bucket, arrays, copies, encoded, runner.back)
        self._runner, self._outputs = runner, [device[tensor.name] for tensor in spec.outputs]
        self._launch: Callable[[], None] | None = None

    def __call__(self, feeds: Feeds, sizes: Mapping[str, int]) -> Outputs:
        self._filled = None  # another context of the runner may have written to its memory
        return super().__call__(feeds, sizes)

    def start(self, feeds: Feeds) -> "Tensor | None":
        with self._runner.stream.current():
            return super().start(feeds)

    def compute(self) -> "Sequence[Tensor]":
        if self._launch is None:
            # After the inputs: the first run of a context is on them, not on what memory happens to hold.
            self._launch = self._ready()
        self._launch()
        return self._outputs

    def wait(self) -> None:
        self._runner.wait()

    def _ready(self) -> Callable[[], None]:
        """What puts the work on the stream: a captured graph, or the context itself where there can be none."""
        runner, context = self._runner, self._context()

        def enqueue() -> None:
            if not context.execute_async_v3(runner.stream.handle):
                raise runner.error("could not be started")

        no_graph = f"{runner.engine.spec.name}: no CUDA graph"
        if runner.engine.cache is not None:  # the library captures itself
            if not context.is_stream_capturable(runner.stream.handle):
                runner.notes[no_graph] = f"{runner.engine.edition.title} cannot capture the engine's work"
            with capturing:
                enqueue()
                runner.wait()
            runner.engine.cache.save()
            return enqueue
        enqueue()  # lets TensorRT and the driver load what they load late; a graph cannot hold that
        runner.wait()
        if not runner.graphs:
            return enqueue
        try:
            return runner.stream.captured(enqueue)
        except RuntimeError as error:
            runner.notes[no_graph] = one_line(error, 200)
            return enqueue

    def _context(self) -> Any:
        runner, bucket = self._runner, self.bucket
        opened, stream = runner.engine, runner.stream
        context = opened.new_context()
        if context is None:
            raise runner.error("got no execution context")
        context.set_device_memory(runner.scratch.data_ptr(), runner.scratch.numel())
        profile = profile_for(opened.record.profiles, dict(bucket.sizes))
        self._check(context.set_optimization_profile_async(profile, stream.handle), f"refuses profile {profile}")
        stream.wait()
        for name in opened.inputs:
            shape = bucket.shape(runner.specs[name])
            self._check(context.set_input_shape(name, shape), f"refuses shape {list(shape)} of {name}")
        for name, memory in runner.memory.items():
            self._check(context.set_tensor_address(name, memory.data_ptr()), f"refuses the address of {name}")
        if unknown := context.infer_shapes():
            raise runner.error(f"does not know the shapes of {', '.join(unknown)}")
        for name in opened.outputs:
            shape, wanted = tuple(context.get_tensor_shape(name)), bucket.shape(runner.specs[name])
            if shape != wanted:
                raise runner.error(f"gives {name} the shape {list(shape)}, expected {list(wanted)}")
        return context

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise self._runner.error(what)
