"""A TensorRT engine of a bundle, opened after everything that could be wrong with it was looked at.

Needs TensorRT 10.15 or newer. Not yet run on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from img_deploy.errors import BackendError, BundleError, one_line
from img_deploy.kernels.dtypes import named
from img_deploy.model.graphs import GraphSpec
from img_deploy.runtime.backends.tensorrt.records import EngineFile, EngineRecord, TrtMachine, version_numbers
from img_deploy.runtime.bundle import Bundle

OLDEST = (10, 15)
_KEPT_MESSAGES = 20


def tensorrt_module() -> Any:
    """The ``tensorrt`` package. Raises BackendError: not installed, does not load, or too old."""
    try:
        trt = import_module("tensorrt")
        version = trt.__version__
    except (ImportError, AttributeError, OSError) as error:
        reason = one_line(error, 160)
        raise BackendError(
            f"tensorrt: does not load ({reason}); pip install 'img-deploy[gpu]' on a machine with an NVIDIA GPU"
        ) from None
    if version_numbers(version)[:2] < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise BackendError(f"tensorrt: got version {version}, expected {least} or newer; pip install -U tensorrt")
    return trt


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
    edition: str = "tensorrt"

    def new_context(self) -> Any:
        """An execution context whose scratch memory is the caller's; None where TensorRT refuses."""
        return self.engine.create_execution_context(self.trt.ExecutionContextAllocationStrategy.USER_MANAGED)


def open_engine(bundle: Bundle, file: EngineFile, spec: GraphSpec, trt: Any) -> OpenEngine:
    """Deserialise an engine whose record fits this machine.

    Raises:
        BundleError: the plan is missing or damaged, or has other inputs, outputs or profiles than its record says.
        BackendError: TensorRT refuses it.
    """
    path = bundle.file(file.plan)
    logger = keeping_logger(trt)
    runtime = trt.Runtime(logger)
    # A version-compatible plan brings the code that runs it.
    runtime.engine_host_code_allowed = file.record.version_compatible
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BackendError(f"{path}: TensorRT {trt.__version__} cannot load it{logger.last()}; build the engine again")
    inputs, outputs = io_tensors(trt, engine)
    known = {tensor.name for tensor in spec.inputs}
    missing = {tensor.name for tensor in spec.outputs} ^ set(outputs)
    if set(inputs) - known or missing or engine.num_optimization_profiles != len(file.record.profiles):
        raise BundleError(f"{path}: is not the engine that its record describes; build the engine again")
    ordered = {tensor.name: inputs[tensor.name] for tensor in spec.inputs if tensor.name in inputs}
    return OpenEngine(trt, logger, runtime, engine, spec, file.record, ordered, outputs)


def io_tensors(trt: Any, engine: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Inputs and outputs of an engine -> torch dtype."""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        target = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        target[name] = named("tensorrt", engine.get_tensor_dtype(name).name).torch
    return inputs, outputs
