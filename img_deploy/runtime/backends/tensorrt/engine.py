"""A TensorRT engine of a bundle, opened after everything that could be wrong with it was looked at. Not yet run."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from img_deploy.errors import BackendError, BundleError, one_line
from img_deploy.files import cache_folder, replacing_file
from img_deploy.kernels.dtypes import named
from img_deploy.model.graphs import GraphSpec
from img_deploy.runtime.backends.tensorrt.edition import EDITIONS, Edition
from img_deploy.runtime.backends.tensorrt.records import EngineFile, EngineRecord, TrtMachine
from img_deploy.runtime.bundle import Bundle

_KEPT_MESSAGES = 20


def this_machine(trt: Any) -> TrtMachine:
    """What an engine has to fit here. Raises BackendError: PyTorch finds no usable GPU."""
    import torch

    if not torch.cuda.is_available():
        raise BackendError(f"torch {torch.__version__} cannot use a GPU here; TensorRT needs one")
    major, minor = torch.cuda.get_device_capability()
    return TrtMachine(trt.__version__, torch.cuda.get_device_name(), f"{major}.{minor}")


def keeping_logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last warnings and errors in ``messages``."""

    class KeepingLogger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.messages.append(one_line(msg))
                del self.messages[:-_KEPT_MESSAGES]

        def last(self) -> str:
            return f" ({self.messages[-1][:200]})" if self.messages else ""

    return KeepingLogger()


class RuntimeCache:
    """What TensorRT for RTX compiles for the card when an engine first runs, kept for the next start.

    A file per plan in the user's cache folder; the library itself refuses one of another card, driver or version.
    """

    def __init__(self, trt: Any, engine: Any, name: str) -> None:
        self._file = cache_folder("tensorrt-rtx") / name
        self.config = engine.create_runtime_config()
        self.config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self.config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self.config.create_runtime_cache()
        self._lock, self._size = Lock(), 0
        with suppress(OSError):
            self._cache.deserialize(self._file.read_bytes())
        self.config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write it where it has grown; a folder that cannot be written costs time at the next start alone."""
        with self._lock, suppress(OSError):
            content = bytes(self._cache.serialize())
            if len(content) > self._size:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                with replacing_file(self._file) as stream:
                    stream.write(content)
                self._size = len(content)


@dataclass(frozen=True)
class OpenEngine:
    """A deserialised engine. Safe to share between threads; its execution contexts are not."""

    trt: Any
    logger: Any
    runtime: Any
    """Has to live as long as the engine."""
    engine: Any
    spec: GraphSpec
    record: EngineRecord
    inputs: Mapping[str, str]
    """Input -> torch dtype, in the graph's order; inputs that the engine has no use for are left out."""
    outputs: Mapping[str, str]
    cache: RuntimeCache | None = None
    """Of TensorRT for RTX, which also captures its work into CUDA graphs itself."""

    @property
    def edition(self) -> Edition:
        return EDITIONS[self.record.edition]

    def new_context(self) -> Any:
        """An execution context whose scratch memory is the caller's; None where TensorRT refuses."""
        if self.cache is not None:
            return self.engine.create_execution_context(self.cache.config)
        return self.engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def open_engine(bundle: Bundle, file: EngineFile, spec: GraphSpec, trt: Any) -> OpenEngine:
    """Deserialise an engine whose record fits this machine.

    Raises:
        BundleError: the plan is missing or damaged, or has other inputs, outputs or profiles than its record says.
        BackendError: TensorRT refuses it.
    """
    path, record = bundle.file(file.plan), file.record
    logger = keeping_logger(trt)
    runtime = trt.Runtime(logger)
    if record.version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan brings the code that runs it
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        title = EDITIONS[record.edition].title
        raise BackendError(f"{path}: {title} {trt.__version__} cannot load it{logger.last()}; build the engine again")
    inputs, outputs = io_tensors(trt, engine)
    known = {tensor.name for tensor in spec.inputs}
    missing = {tensor.name for tensor in spec.outputs} ^ set(outputs)
    if set(inputs) - known or missing or engine.num_optimization_profiles != len(record.profiles):
        raise BundleError(f"{path}: is not the engine that its record describes; build the engine again")
    ordered = {tensor.name: inputs[tensor.name] for tensor in spec.inputs if tensor.name in inputs}
    cache = None
    if EDITIONS[record.edition].builds_anywhere:
        cache = RuntimeCache(trt, engine, f"{bundle.manifest.files[file.plan]}.cache")
    return OpenEngine(trt, logger, runtime, engine, spec, record, ordered, outputs, cache)


def io_tensors(trt: Any, engine: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and outputs of an engine -> torch dtype."""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        target = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        target[name] = named("tensorrt", engine.get_tensor_dtype(name).name).torch
    return inputs, outputs
