"""TensorRT on the engines of a bundle. Not yet run on a GPU."""

from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock

from img_deploy.errors import BackendError
from img_deploy.hardware import cuda_devices
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.backends.cuda_stream import CudaStream
from img_deploy.runtime.backends.trt_engine import OpenEngine, open_engine, tensorrt_module, this_machine
from img_deploy.runtime.backends.trt_lane import Lane, Stream
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.engine_files import TrtMachine, fitting_engine

HOW_TO_BUILD = "build engines for this machine: `img-deploy export --targets onnx,tensorrt`, or `infer --rebuild`"


def unavailable(device: str, bundle: Bundle | None) -> str | None:
    """Why it cannot run; None if it can. TensorRT and torch are imported only where there is a GPU."""
    if device != "cuda" or not cuda_devices():
        return "no NVIDIA GPU"
    for package in ("tensorrt", "torch"):
        if find_spec(package) is None:
            return f"{package} is not installed (pip install 'img-deploy[gpu]')"
    if bundle is not None and not bundle.manifest.engines.get(bundle.manifest.precision):
        return f"the bundle has no {bundle.manifest.precision} engines; {HOW_TO_BUILD}"
    try:
        trt = tensorrt_module()
        machine = this_machine(trt)
    except BackendError as error:
        return str(error)
    if bundle is not None:
        for graph, reasons in unfit(bundle, machine).items():
            return f"no engine of {graph} fits this machine ({'; or '.join(reasons)}); {HOW_TO_BUILD}"
    return None


def unfit(bundle: Bundle, machine: TrtMachine) -> dict[str, list[str]]:
    """The graphs for which a bundle has no engine that runs here -> why. Raises BundleError: a record is damaged."""
    found = {graph: fitting_engine(bundle, graph, machine) for graph in GRAPH_NAMES}
    return {graph: reasons for graph, (engine, reasons) in found.items() if engine is None}


def open_backend(device: str, bundle: Bundle, threads: int | None) -> "TrtBackend":  # noqa: ARG001
    """Loads every engine, so that what cannot work fails here. Raises BackendError, BundleError."""
    trt = tensorrt_module()
    machine = this_machine(trt)
    engines = {}
    for graph, spec in graph_specs(bundle.manifest.model).items():
        file, reasons = fitting_engine(bundle, graph, machine)
        if file is None:
            raise BackendError(
                f"backend tensorrt: no engine of {graph} fits this machine ({'; or '.join(reasons)}); {HOW_TO_BUILD}"
            )
        engines[graph] = open_engine(bundle, file, spec, trt)
    return TrtBackend(engines, bundle.manifest.precision)


class TrtBackend:
    """The engines of one bundle. A run takes a lane of its graph for itself; one is made when all are taken."""

    name = "tensorrt"
    device = "cuda"

    def __init__(
        self,
        engines: dict[str, OpenEngine],
        precision: str,
        stream: Callable[[], Stream] | None = None,
        graphs: bool = True,
    ) -> None:
        self.precision = precision
        self._engines, self._stream, self._graphs = engines, stream or CudaStream, graphs
        self._free: dict[str, list[Lane]] = {graph: [] for graph in engines}
        self._lanes: list[Lane] = []
        self._lock = Lock()
        self._closed = False

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        from img_deploy.runtime.backends.static_buffers import join

        lane = self._take(graph)
        try:
            spec = self._engines[graph].spec
            samples = len(feeds[spec.inputs[0].name])
            parts = range(0, samples, lane.most_samples)
            return join(spec, [lane.run(feeds, slice(at, at + lane.most_samples)) for at in parts])
        finally:
            with self._lock:
                if lane.broken:
                    self._lanes = [each for each in self._lanes if each is not lane]
                elif not self._closed:
                    self._free[graph].append(lane)

    def notes(self) -> dict[str, str]:
        """What did not go as planned, and why: for example a graph that could not be captured."""
        with self._lock:
            return {what: why for lane in self._lanes for what, why in lane.notes.items()}

    def _take(self, graph: str) -> Lane:
        with self._lock:
            if self._closed:
                raise BackendError("backend tensorrt: was closed; load the bundle again")
            if self._free[graph]:
                return self._free[graph].pop()
        lane = Lane(self._engines[graph], self._stream(), self._graphs)
        with self._lock:
            self._lanes.append(lane)
        return lane

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._free = {graph: [] for graph in self._engines}
            self._lanes.clear()
            self._engines = {}
