"""ONNX Runtime on the bundle's ONNX files, on the CPU or a GPU."""

from functools import cached_property
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.errors import BackendError, one_line
from img_deploy.hardware import cuda_devices, usable_cpus
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.bundle import Bundle

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def unavailable(device: str, bundle: Bundle | None) -> str | None:
    """Why it cannot run; None if it can."""
    if device == "cuda" and not cuda_devices():
        return "no NVIDIA GPU"
    if find_spec("onnxruntime") is None:
        extra = "gpu" if device == "cuda" else "cpu"
        return f"onnxruntime is not installed (pip install 'img-deploy[{extra}]')"
    if bundle is not None and bundle.manifest.precision not in bundle.manifest.graphs:
        return f"the bundle has no {bundle.manifest.precision} ONNX graphs"
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except (ImportError, AttributeError, OSError) as error:
        # Both runtimes installed over each other, or libraries that are missing.
        return f"onnxruntime does not load ({' '.join(str(error).split())[:120]})"
    if _PROVIDERS[device] not in providers:
        return f"this onnxruntime {onnxruntime.__version__} has no {_PROVIDERS[device]}"
    return None


def open_backend(device: str, bundle: Bundle, threads: int | None) -> "OrtBackend":
    """Loads the first graph, so that what cannot work fails here. Raises BackendError, BundleError."""
    if device == "cuda":
        from img_deploy.runtime.backends.ort_gpu import OrtGpuBackend

        backend: OrtBackend = OrtGpuBackend(bundle, threads=threads)
    else:
        backend = OrtBackend(bundle, device, threads)
    backend.session(GRAPH_NAMES[0])
    return backend


class OrtBackend:
    """One session per graph, made when the graph is first run."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        self.device, self.precision = device, bundle.manifest.precision
        self._bundle, self._threads = bundle, threads
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = Lock()
        self._closed = False

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        session = self.session(graph)
        inputs: dict[str, np.ndarray] = {
            # A graph need not use everything (an ablation without sound has no use for it).
            node.name: np.ascontiguousarray(feeds[node.name], _DTYPES[node.type])
            for node in session.get_inputs()
        }
        names = [node.name for node in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, inputs), strict=True))
        except Exception as error:  # its errors have no common class of their own
            raise BackendError(f"backend onnxruntime: {graph} failed ({one_line(error, 200)})") from None

    def session(self, graph: str) -> "onnxruntime.InferenceSession":
        """The session of a graph, made once. Raises BackendError, BundleError."""
        session = self._sessions.get(graph)
        if session is None:
            with self._lock:
                if self._closed:
                    raise BackendError("backend onnxruntime: was closed; load the bundle again")
                session = self._sessions.get(graph)
                if session is None:
                    session = self._sessions[graph] = self._load(graph)
        return session

    def _load(self, graph: str) -> "onnxruntime.InferenceSession":
        import onnxruntime

        path = self._bundle.graph(graph)
        providers = self.providers(graph)
        wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
        try:
            session = onnxruntime.InferenceSession(str(path), self._options, providers=providers)
        except Exception as error:  # its errors have no common class of their own
            raise BackendError(f"backend onnxruntime: {path} does not load ({one_line(error, 200)})") from None
        if wanted not in session.get_providers():
            raise BackendError(f"backend onnxruntime: {wanted} does not start here, though it is installed")
        return session

    def providers(self, graph: str) -> list[Any]:  # noqa: ARG002
        """Execution providers of a graph's session, the one it has to run on first, with their options."""
        return [_PROVIDERS[self.device]]

    @cached_property
    def _options(self) -> "onnxruntime.SessionOptions":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors; they are raised as well
        options.intra_op_num_threads = self._threads or usable_cpus()
        # Four sessions with a thread pool each: idle ones must not burn the cores of the one that runs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._sessions.clear()
