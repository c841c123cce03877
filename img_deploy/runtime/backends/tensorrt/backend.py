"""TensorRT on the engines of a bundle: the full edition, and what both editions share. Not yet run on a GPU."""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from img_deploy.errors import BackendError
from img_deploy.hardware import why_no_gpu
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.backends.cuda import capturing
from img_deploy.runtime.backends.lifetime import NativeBackend
from img_deploy.runtime.backends.protocol import Feeds, Outputs
from img_deploy.runtime.backends.tensorrt.cuda_stream import CudaStream
from img_deploy.runtime.backends.tensorrt.edition import FULL, RTX, Edition
from img_deploy.runtime.backends.tensorrt.engine import OpenEngine, open_engine, this_machine
from img_deploy.runtime.backends.tensorrt.records import TrtMachine, fitting_engine
from img_deploy.runtime.backends.tensorrt.runner import EngineRunner, Stream

if TYPE_CHECKING:
    from img_deploy.runtime.bundle import Bundle

HOW_TO_BUILD = {
    FULL: "build engines for this machine: `img-deploy export --targets onnx,tensorrt`, or `infer --rebuild`",
    RTX: "build engines for its GPU: `img-deploy export --targets onnx,tensorrt-rtx --gpu smNN`",
}
HOW_TO_VERIFY = "python -m img_deploy.benchmarks.trt_acceptance"


def unavailable(device: str, bundle: "Bundle | None", edition: Edition = FULL) -> str | None:
    """Why it cannot run; None if it can. TensorRT and torch are imported only where there is a GPU."""
    del device  # always cuda
    if why := why_no_gpu(through_torch=False):
        return why
    if not edition.installed:
        return f"{edition.name} is not installed ({edition.how_to_install})"
    if bundle is not None and not bundle.manifest.engines.get(bundle.manifest.precision):
        return f"the bundle has no {bundle.manifest.precision} engines; {HOW_TO_BUILD[edition]}"
    try:
        trt = edition.load()
        machine = this_machine(trt)
    except BackendError as error:
        return str(error)
    if edition.builds_anywhere and machine.capability not in (known := edition.capabilities(trt)):
        return f"{edition.title} is for compute capability {', '.join(known)}; {machine.gpu} has {machine.capability}"
    if bundle is not None:
        for graph, reasons in unfit(bundle, machine, edition).items():
            return _unfit(graph, reasons, edition)
    return None


def unfit(bundle: "Bundle", machine: TrtMachine, edition: Edition = FULL) -> dict[str, list[str]]:
    """The graphs for which a bundle has no engine that runs here -> why. Raises BundleError: a record is damaged."""
    found = {graph: fitting_engine(bundle, graph, machine, edition) for graph in GRAPH_NAMES}
    return {graph: reasons for graph, (engine, reasons) in found.items() if engine is None}


def _unfit(graph: str, reasons: list[str], edition: Edition) -> str:
    return f"no engine of {graph} fits this machine ({'; or '.join(reasons)}); {HOW_TO_BUILD[edition]}"


def open_backend(
    device: str,  # noqa: ARG001
    bundle: "Bundle",
    threads: int | None,  # noqa: ARG001
    edition: Edition = FULL,
) -> "TrtBackend":
    """Loads every engine, so that what cannot work fails here. Raises BackendError, BundleError."""
    trt = edition.load()
    machine = this_machine(trt)
    engines, plans = {}, {}
    for graph, spec in graph_specs(bundle.manifest.model).items():
        file, reasons = fitting_engine(bundle, graph, machine, edition)
        if file is None:
            raise BackendError(f"backend {edition.name}: {_unfit(graph, reasons, edition)}")
        engines[graph], plans[graph] = open_engine(bundle, file, spec, trt), file.plan
    return TrtBackend(engines, plans, bundle.manifest.precision)


class TrtBackend(NativeBackend):
    """The engines of one bundle. A run takes a runner of its graph for itself; one is made when all are taken."""

    device = "cuda"

    def __init__(
        self,
        engines: dict[str, OpenEngine],
        plans: dict[str, str],
        precision: str,
        stream: Callable[[], Stream] | None = None,
        graphs: bool = True,
    ) -> None:
        super().__init__()
        self.name = next(iter(engines.values())).edition.name
        self.precision, self.plans = precision, plans
        """``plans``: graph -> file of its engine, relative to the bundle."""
        self._engines, self._stream, self._graphs = engines, stream or CudaStream, graphs
        self._free: dict[str, list[EngineRunner]] = {graph: [] for graph in engines}
        unverified = [graph for graph, engine in engines.items() if not engine.record.verified]
        self._notes: dict[str, str] = {}
        if unverified:
            why = f"they were built where no such GPU is; compare them with eager PyTorch: {HOW_TO_VERIFY}"
            self._notes[f"engines of {', '.join(unverified)} were never verified"] = why
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
