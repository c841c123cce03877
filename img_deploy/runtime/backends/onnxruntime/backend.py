"""ONNX Runtime on the bundle's ONNX files, on the CPU."""

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.errors import BackendError, one_line
from img_deploy.hardware import usable_cpus, version_of, why_no_gpu
from img_deploy.kernels.dtypes import named
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.lifetime import NativeBackend
from img_deploy.runtime.backends.padded import stacked
from img_deploy.runtime.backends.protocol import Feeds, Outputs

if TYPE_CHECKING:
    import onnxruntime

    from img_deploy.runtime.bundle import Bundle

CPU = "CPUExecutionProvider"
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
"""All of them install the same folder ``onnxruntime``, each over the other."""


def installed() -> list[str]:
    """The distributions of ONNX Runtime that are installed. More than one is a broken installation."""
    return [name for name in DISTRIBUTIONS if version_of(name) is not None]


def providers() -> tuple[str, ...]:
    """Execution providers of the installed ONNX Runtime.

    Raises BackendError: both runtimes are installed over each other, or libraries are missing.
    """
    try:
        import onnxruntime

        return tuple(onnxruntime.get_available_providers())
    except (ImportError, AttributeError, OSError) as error:
        raise BackendError(f"onnxruntime does not load ({one_line(error, 120)})") from None


def unavailable(device: str, bundle: "Bundle | None") -> str | None:
    """Why it cannot run; None if it can."""
    return why_not(CPU, device, bundle)


def why_not(provider: str, device: str, bundle: "Bundle | None") -> str | None:
    """Why a provider cannot run; None if it can."""
    if device == "cuda" and (why := why_no_gpu(through_torch=False)):
        return why
    if find_spec("onnxruntime") is None:
        return f"onnxruntime is not installed (pip install 'img-deploy[{'gpu' if device == 'cuda' else 'cpu'}]')"
    if bundle is not None and bundle.manifest.precision not in bundle.manifest.graphs:
        return f"the bundle has no {bundle.manifest.precision} ONNX graphs"
    try:
        if provider not in providers():
            import onnxruntime

            return f"this onnxruntime {onnxruntime.__version__} has no {provider}"
    except BackendError as error:
        return str(error)
    return None


def open_backend(device: str, bundle: "Bundle", threads: int | None) -> "OrtBackend":  # noqa: ARG001
    """Loads the first graph, so that what cannot work fails here. Raises BackendError, BundleError."""
    backend = OrtBackend(bundle, threads=threads)
    backend.session(GRAPH_NAMES[0])
    return backend


class OrtBackend(NativeBackend):
    """One session per graph, made when the graph is first run.

    The rows of a batch are shared out to the threads, which each run the graph on their own: within one run, GRUs use
    a single thread. All threads work together on a batch of one.
    """

    name = "onnxruntime"

    def __init__(self, bundle: "Bundle", device: str = "cpu", threads: int | None = None) -> None:
        super().__init__()
        self.device, self.precision = device, bundle.manifest.precision
        self._bundle, self._threads = bundle, threads or usable_cpus()
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = Lock()
        self._by_row = (
            None if self._threads == 1 else (OrtBackend(bundle, threads=1), ThreadPoolExecutor(self._threads))
        )

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        self.check_open()
        by_row, batch = self._by_row, len(next(iter(feeds.values())))
        if by_row is None or batch == 1:
            return self._run(graph, feeds)
        one_thread, pool = by_row
        whole = {name: stacked(values) for name, values in feeds.items()}
        shares = min(batch, self._threads)
        ends = [batch * share // shares for share in range(shares + 1)]

        def part(start: int, end: int) -> Outputs:
            return one_thread.run(graph, {name: values[start:end] for name, values in whole.items()})

        parts = list(pool.map(part, ends[:-1], ends[1:]))
        return {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}

    def _run(self, graph: str, feeds: Feeds) -> Outputs:
        session = self.session(graph)
        inputs: dict[str, np.ndarray] = {
            # A graph need not use everything (an ablation without sound has no use for it).
            node.name: np.ascontiguousarray(stacked(feeds[node.name]), named("onnxruntime", node.type).torch)
            for node in session.get_inputs()
        }
        names = [node.name for node in session.get_outputs()]
        try:
            return dict(zip(names, session.run(names, inputs), strict=True))
        except Exception as error:  # its errors have no common class of their own
            raise BackendError(f"backend onnxruntime: {graph} failed ({one_line(error, 200)})") from None

    def session(self, graph: str) -> "onnxruntime.InferenceSession":
        """The session of a graph, made once. Raises BackendError, BundleError."""
        self.check_open()
        session = self._sessions.get(graph)
        if session is None:
            with self._lock:
                self.check_open()
                session = self._sessions.get(graph)
                if session is None:
                    session = self._sessions[graph] = self._load(graph)
        return session

    def _load(self, graph: str) -> "onnxruntime.InferenceSession":
        import onnxruntime

        path = self._bundle.graph(graph)
        asked = self.providers(graph)
        wanted = asked[0] if isinstance(asked[0], str) else asked[0][0]
        try:
            session = onnxruntime.InferenceSession(str(path), self._options, providers=asked)
        except Exception as error:  # its errors have no common class of their own
            raise BackendError(f"backend onnxruntime: {path} does not load ({one_line(error, 200)})") from None
        if wanted not in session.get_providers():
            raise BackendError(f"backend onnxruntime: {wanted} does not start here, though it is installed")
        if (found := session.get_modelmeta().custom_metadata_map.get("graph", graph)) != graph:
            raise BackendError(f"{path}: holds the graph {found}, expected {graph}; export the bundle again")
        return session

    def providers(self, graph: str) -> list[Any]:  # noqa: ARG002
        """Execution providers of a graph's session, the one it has to run on first, with their options."""
        return [CPU]

    @cached_property
    def _options(self) -> "onnxruntime.SessionOptions":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors; they are raised as well
        options.intra_op_num_threads = self._threads
        # A thread pool for each session: it spins while it runs, and an idle one must not burn the others' cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def _release(self) -> None:
        with self._lock:
            self._sessions.clear()
        by_row, self._by_row = self._by_row, None
        if by_row is not None:
            by_row[0].close()
