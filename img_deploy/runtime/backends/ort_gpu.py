"""ONNX Runtime on a GPU: inputs and outputs stay where they are, and runs are replayed as CUDA graphs.

Requests are padded to a bucket; each bucket has memory of its own on the GPU, bound to the session once. Not yet run on
a GPU; the binding, padding and cutting are the same on a CPU and tested there.
"""

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import BackendError, one_line
from img_deploy.model.graphs import GraphSpec, graph_specs
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.backends.buckets import Bucket, Ladders, shape_of, sizes_of
from img_deploy.runtime.backends.graph_cache import GraphCache
from img_deploy.runtime.backends.ort import _DTYPES, OrtBackend
from img_deploy.runtime.bundle import Bundle

if TYPE_CHECKING:
    import onnxruntime

MOST_SAMPLES = 64
MOST_BUCKETS = 32
"""Of one graph; each holds its inputs and outputs on the GPU."""
CUDA = "CUDAExecutionProvider"


class _Bound:
    """A session's inputs and outputs at one bucket's sizes. ``number`` names its CUDA graph; -1 for none."""

    def __init__(
        self, session: "onnxruntime.InferenceSession", spec: GraphSpec, bucket: Bucket, place: str, number: int
    ) -> None:
        import onnxruntime

        self._session, self._number = session, number
        tensors = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        self._binding = session.io_binding()
        self._held: dict[str, NDArray[Any]] = {}
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}
        allocate = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        for node in session.get_inputs():
            shape = bucket.shape(tensors[node.name])
            self._held[node.name] = np.zeros(shape, _DTYPES[node.type])
            self._inputs[node.name] = allocate(shape, _DTYPES[node.type], place, 0)
            self._binding.bind_ortvalue_input(node.name, self._inputs[node.name])
        for node in session.get_outputs():
            shape = bucket.shape(tensors[node.name])
            self._outputs[node.name] = allocate(shape, _DTYPES[node.type], place, 0)
            self._binding.bind_ortvalue_output(node.name, self._outputs[node.name])

    def __call__(self, feeds: Feeds, rows: slice) -> dict[str, NDArray[Any]]:
        """Outputs at the bucket's sizes."""
        import onnxruntime

        for name, held in self._held.items():
            held[...] = 0  # what an earlier request left there may be infinite, and reach through a mask's zero
            values = feeds[name][rows]
            held[tuple(slice(size) for size in values.shape)] = values
            self._inputs[name].update_inplace(held)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(self._number))
        self._session.run_with_iobinding(self._binding, options)
        self._binding.synchronize_outputs()
        return {name: value.numpy() for name, value in self._outputs.items()}


class OrtGpuBackend(OrtBackend):
    """One session per graph. A graph runs for one thread at a time: captured graphs are not for two at once."""

    def __init__(self, bundle: Bundle, device: str = "cuda", threads: int | None = None, graphs: bool = True) -> None:
        super().__init__(bundle, device, threads)
        self._graphs = dict.fromkeys(graph_specs(bundle.manifest.model), graphs and device == "cuda")
        self._specs = graph_specs(bundle.manifest.model)
        self._ladders = Ladders.up_to(bundle.manifest.limits, MOST_SAMPLES)
        self._bound: dict[str, GraphCache[Bucket, _Bound]] = {}
        self._busy = {graph: Lock() for graph in self._specs}
        self._captured = 0
        self._notes: dict[str, str] = {}

    def providers(self, graph: str) -> list[Any]:
        if self.device != "cuda":
            return super().providers(graph)
        # TF32 is 1e-3 off in fp32; operators without a CUDA kernel run on the CPU.
        options = {"use_tf32": "0", "enable_cuda_graph": "1" if self._graphs[graph] else "0"}
        return [(CUDA, options), "CPUExecutionProvider"]

    def notes(self) -> dict[str, str]:
        """What did not go as planned, and why: for example a graph that could not be captured."""
        return dict(self._notes)

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        spec = self._specs[graph]
        sizes = sizes_of(spec, feeds)
        with self._busy[graph]:
            parts = []
            for at in range(0, sizes["batch"], MOST_SAMPLES):
                rows = slice(at, min(at + MOST_SAMPLES, sizes["batch"]))
                parts.append(self._part(spec, feeds, rows, {**sizes, "batch": rows.stop - at}))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _part(self, spec: GraphSpec, feeds: Feeds, rows: slice, sizes: dict[str, int]) -> Outputs:
        bucket = self._ladders.bucket(spec.name, sizes)
        outputs = {tensor.name: tensor for tensor in spec.outputs}
        try:
            padded = self._cache(spec)(bucket)(feeds, rows)
        except BackendError:
            raise
        except Exception as error:  # its errors have no common class of their own
            if not self._graphs[spec.name]:
                raise BackendError(f"backend {self.name}: {spec.name} failed ({one_line(error, 200)})") from None
            self._without_graphs(spec.name, error)
            return self._part(spec, feeds, rows, sizes)
        cut = {name: tuple(slice(size) for size in shape_of(outputs[name], sizes)) for name in padded}
        return {name: value[cut[name]].copy() for name, value in padded.items()}

    def _cache(self, spec: GraphSpec) -> Any:
        if spec.name not in self._bound:
            session = self.session(spec.name)
            place = "cuda" if self.device == "cuda" else "cpu"

            def bind(bucket: Bucket) -> _Bound:
                self._captured += 1
                number = self._captured if self._graphs[spec.name] else -1
                return _Bound(session, spec, bucket, place, number)

            self._bound[spec.name] = GraphCache(bind, MOST_BUCKETS)
        return self._bound[spec.name].get

    def _load(self, graph: str) -> "onnxruntime.InferenceSession":
        try:
            return super()._load(graph)
        except BackendError as error:
            if not self._graphs[graph]:
                raise
            self._note(graph, error)
            return super()._load(graph)

    def _without_graphs(self, graph: str, error: Exception) -> None:
        """Forget a session that cannot be captured; the next one is made without CUDA graphs."""
        self._note(graph, error)
        self._bound.pop(graph, None)
        with self._lock:
            self._sessions.pop(graph, None)

    def _note(self, graph: str, error: Exception) -> None:
        self._graphs[graph] = False
        self._notes[f"{graph}: no CUDA graph"] = one_line(error, 200)

    def close(self) -> None:
        super().close()
        self._bound.clear()
