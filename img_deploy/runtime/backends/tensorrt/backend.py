"""TensorRT on the engines of a bundle. Not yet run on a GPU."""

from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING

from img_deploy.errors import BackendError
from img_deploy.hardware import why_no_gpu
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.lifetime import NativeBackend
from img_deploy.runtime.backends.protocol import Feeds, Outputs
from img_deploy.runtime.backends.tensorrt.cuda_stream import CudaStream
from img_deploy.runtime.backends.tensorrt.engine import OpenEngine, open_engine, tensorrt_module, this_machine
from img_deploy.runtime.backends.tensorrt.records import TrtMachine, fitting_engine
from img_deploy.runtime.backends.tensorrt.runner import EngineRunner, Stream

if TYPE_CHECKING:
    from img_deploy.runtime.bundle import Bundle

HOW_TO_BUILD = "build engines for this machine: `img-deploy export --targets onnx,tensorrt`, or `infer --rebuild`"


def unavailable(device: str, bundle: "Bundle | None") -> str | None:
    """Why it cannot run; None if it can. TensorRT and torch are imported only where there is a GPU."""
    del device  # always cuda
    if why := why_no_gpu(through_torch=False):
        return why
    if find_spec("tensorrt") is None:
        return "tensorrt is not installed (pip install 'img-deploy[gpu]')"
    if bundle is not None and not bundle.manifest.engines.get(bundle.manifest.precision):
        return f"the bundle has no {bundle.manifest.precision} engines; {HOW_TO_BUILD}"
    try:
        machine = this_machine(tensorrt_module())
    except BackendError as error:
        return str(error)
    if bundle is not None:
        for graph, reasons in unfit(bundle, machine).items():
            return f"no engine of {graph} fits this machine ({'; or '.join(reasons)}); {HOW_TO_BUILD}"
    return None


def unfit(bundle: "Bundle", machine: TrtMachine) -> dict[str, list[str]]:
    """The graphs for which a bundle has no engine that runs here -> why. Raises BundleError: a record is damaged."""
    found = {graph: fitting_engine(bundle, graph, machine) for graph in GRAPH_NAMES}
    return {graph: reasons for graph, (engine, reasons) in found.items() if engine is None}


def open_backend(device: str, bundle: "Bundle", threads: int | None) -> "TrtBackend":  # noqa: ARG001
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


class TrtBackend(NativeBackend):
    """The engines of one bundle. A run takes a runner of its graph for itself; one is made when all are taken."""

    name = "tensorrt"
    device = "cuda"

    def __init__(
        self,
        engines: dict[str, OpenEngine],
        precision: str,
        stream: Callable[[], Stream] | None = None,
        graphs: bool = True,
    ) -> None:
        super().__init__()
        self.precision = precision
        self._engines, self._stream, self._graphs = engines, stream or CudaStream, graphs
        self._free: dict[str, list[EngineRunner]] = {graph: [] for graph in engines}
        self._notes: dict[str, str] = {}
        self._lock = Lock()

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        self.check_open()
        with self._lock:
            self.check_open()
            free = self._free[graph]
            runner = free.pop() if free else None
            engine = self._engines[graph]
        runner = runner or EngineRunner(engine, self._stream(), self._graphs)
        try:
            return runner.run(feeds)
        finally:
            with self._lock:
                self._notes |= runner.notes
                if not runner.broken and self._gone is None:
                    self._free[graph].append(runner)

    def notes(self) -> dict[str, str]:
        with self._lock:
            return dict(self._notes)

    def _release(self) -> None:
        with self._lock, capturing:
            self._free = {graph: [] for graph in self._engines}
            self._engines = {}
