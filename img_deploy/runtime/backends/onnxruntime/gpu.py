"""ONNX Runtime on a GPU: inputs and outputs stay where they are, and runs are replayed as CUDA graphs.

Requests are padded to a bucket; each bucket has memory of its own on the GPU, bound to the session once. Not yet run on
a GPU; the binding, padding and cutting are the same on a CPU and tested there.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import BackendError, one_line
from img_deploy.kernels.dtypes import named
from img_deploy.model.graphs import GRAPH_NAMES, GraphSpec, graph_specs
from img_deploy.runtime.backends.buckets import Bucket, Ladders
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.graph_cache import GraphCache
from img_deploy.runtime.backends.onnxruntime.backend import CPU, OrtBackend, why_not
from img_deploy.runtime.backends.padded import cut, fill, run_padded
from img_deploy.runtime.backends.protocol import Feeds, Outputs

if TYPE_CHECKING:
    import onnxruntime

    from img_deploy.runtime.bundle import Bundle

MOST_SAMPLES = 64
MOST_BUCKETS = 32
"""Of one graph; each holds its inputs and outputs on the GPU."""
CUDA = "CUDAExecutionProvider"


def unavailable(device: str, bundle: "Bundle | None") -> str | None:
    """Why it cannot run; None if it can."""
    return why_not(CUDA, device, bundle)


def open_backend(device: str, bundle: "Bundle", threads: int | None) -> "OrtGpuBackend":
    """Loads the first graph, so that what cannot work fails here. Raises BackendError, BundleError."""
    backend = OrtGpuBackend(bundle, device, threads)
    backend.session(GRAPH_NAMES[0])
    return backend


class BoundRun:
    """A session's inputs and outputs at one bucket's sizes. ``number`` names its CUDA graph; -1 for none."""

    def __init__(
        self, session: "onnxruntime.InferenceSession", spec: GraphSpec, bucket: Bucket, device: str, number: int
    ) -> None:
        import onnxruntime

        self._session, self._number, self._outs = session, number, spec.outputs
        tensors = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        self._binding = session.io_binding()
        self._inputs: dict[str, NDArray[Any]] = {}
        self._values: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        self._captured = number < 0
        allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        for node in session.get_inputs():
            shape, dtype = bucket.shape(tensors[node.name]), np.dtype(named("onnxruntime", node.type).torch)
            self._inputs[node.name] = np.zeros(shape, dtype)
            self._values[node.name] = allocate(shape, dtype, device, 0)
            self._binding.bind_ortvalue_input(node.name, self._values[node.name])
        for node in session.get_outputs():
            shape, dtype = bucket.shape(tensors[node.name]), np.dtype(named("onnxruntime", node.type).torch)
            self._outputs[node.name] = allocate(shape, dtype, device, 0)
            self._binding.bind_ortvalue_output(node.name, self._outputs[node.name])

    def __call__(self, feeds: Feeds, sizes: Mapping[str, int]) -> Outputs:
        """Outputs of samples that fit the bucket, of the sizes that they have. The first call captures."""
        import onnxruntime

        for name, held in self._inputs.items():
            fill(held, feeds[name])
            self._values[name].update_inplace(held)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(self._number))
        with nullcontext() if self._captured else capturing:
            self._session.run_with_iobinding(self._binding, options)
            self._binding.synchronize_outputs()
        self._captured = True
        # A copy: on a CPU, the array is the memory that the next run writes to.
        return {tensor.name: cut(self._outputs[tensor.name].numpy(), tensor, sizes).copy() for tensor in self._outs}


class OrtGpuBackend(OrtBackend):
    """One session per graph. A graph runs for one thread at a time: captured graphs are not for two at once."""

    def __init__(self, bundle: "Bundle", device: str = "cuda", threads: int | None = None, graphs: bool = True) -> None:
        super().__init__(bundle, device, threads)
        self._specs = graph_specs(bundle.manifest.model)
        self._graphs = dict.fromkeys(self._specs, graphs and device == "cuda")
        self._ladders = Ladders.up_to(cast("dict[str, int]", bundle.manifest.limits), MOST_SAMPLES)
        self._bound: dict[str, GraphCache[Bucket, BoundRun]] = {}
        self._busy = {graph: Lock() for graph in self._specs}
        self._numbers = 0
        self._notes: dict[str, str] = {}

    def providers(self, graph: str) -> list[Any]:
        if self.device != "cuda":
            return super().providers(graph)
        # TF32 is 1e-3 off in fp32; operators without a CUDA kernel run on the CPU.
        return [(CUDA, {"use_tf32": "0", "enable_cuda_graph": "1" if self._graphs[graph] else "0"}), CPU]

    def notes(self) -> dict[str, str]:
        return dict(self._notes)

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        self.check_open()
        spec = self._specs[graph]
        with self._busy[graph]:
            try:
                return run_padded(spec, self._ladders, feeds, self._runs(spec).get)
            except BackendError:
                raise
            except Exception as error:  # its errors have no common class of their own
                if not self._graphs[graph]:
                    raise BackendError(f"backend {self.name}: {graph} failed ({one_line(error, 200)})") from None
                self._do_without_graphs(graph, error)
        return self.run(graph, feeds)

    def _runs(self, spec: GraphSpec) -> "GraphCache[Bucket, BoundRun]":
        if spec.name not in self._bound:
            session = self.session(spec.name)

            def bind(bucket: Bucket) -> BoundRun:
                self._numbers += 1
                return BoundRun(session, spec, bucket, self.device, self._numbers if self._graphs[spec.name] else -1)

            self._bound[spec.name] = GraphCache(bind, MOST_BUCKETS)
        return self._bound[spec.name]

    def _load(self, graph: str) -> "onnxruntime.InferenceSession":
        try:
            return super()._load(graph)
        except BackendError as error:
            if not self._graphs[graph]:
                raise
            self._note(graph, error)
            return super()._load(graph)

    def _do_without_graphs(self, graph: str, error: Exception) -> None:
        """Forget a session that cannot be captured; the next one is made without CUDA graphs."""
        self._note(graph, error)
        if graph in self._bound:
            self._bound.pop(graph).clear()
        with capturing, self._lock:
            self._sessions.pop(graph, None)

    def _note(self, graph: str, error: Exception) -> None:
        self._graphs[graph] = False
        self._notes[f"{graph}: no CUDA graph"] = one_line(error, 200)

    def _release(self) -> None:
        for runs in self._bound.values():
            runs.clear()
        with capturing:
            super()._release()
