"""A stand-in for the ``tensorrt`` module: exactly the names that we use, each checked against the real bindings.

It builds "engines" that compute: a plan holds the graph that the parser was given, and a context runs it with ONNX's
reference evaluator on the memory at the addresses it was told, plugins by their PyTorch references. What is asked of it
that it does not know raises AttributeError or TypeError, as the real thing would.
"""

import base64
import ctypes
import enum
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64}


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    BOOL = 4
    INT64 = 8
    BF16 = 7


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1
    PREFER_AOT_PYTHON_PLUGINS = 3


class OnnxParserFlag(enum.IntEnum):
    ENABLE_PLUGIN_OVERRIDE = 3


class BuilderFlag(enum.IntEnum):
    TF32 = 5
    VERSION_COMPATIBLE = 9


class HardwareCompatibilityLevel(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    JSON = 1


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    USER_MANAGED = 2


class _Strict:
    """Takes no attribute that it does not declare."""

    _names: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._names and not name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        object.__setattr__(self, name, value)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = enum.Enum(
        "Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"]
    )

    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def __init__(self) -> None:
        pass


class _Tensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name = value.name
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        self.dtype = DataType[{"FLOAT16": "HALF", "BFLOAT16": "BF16"}.get(kind, kind)]


class INetworkDefinition(_Strict):
    def __init__(self, flags: int) -> None:
        self._flags, self._model = flags, b""

    @property
    def num_inputs(self) -> int:
        return len(onnx.load_from_string(self._model).graph.input)

    def get_input(self, index: int) -> _Tensor:
        return _Tensor(onnx.load_from_string(self._model).graph.input[index])

    @property
    def num_outputs(self) -> int:
        return len(onnx.load_from_string(self._model).graph.output)

    def get_output(self, index: int) -> _Tensor:
        return _Tensor(onnx.load_from_string(self._model).graph.output[index])


class ParserError:
    def __init__(self, node: Any, text: str) -> None:
        self._node, self._text = node, text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type


class OnnxParser(_Strict):
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger, self._errors, self._flags = network, logger, [], set()

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def set_flag(self, flag: OnnxParserFlag) -> None:
        self._flags.add(OnnxParserFlag(flag))

    def parse(self, model: bytes, path: str | None = None) -> bool:  # noqa: ARG002
        proto = onnx.load_from_string(model)
        bodies = {function.name for function in proto.functions}
        for node in proto.graph.node:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            wanted = {"plugin_namespace": b"img_deploy", "plugin_version": b"1", "aot": AOT}
            is_plugin = node.op_type in registered and attributes.items() >= wanted.items()
            if node.domain and not is_plugin and node.op_type not in bodies:
                self._errors.append(ParserError(node, "Plugin not found"))
        self._network._model = model
        return not self._errors


AOT = 1
"""What plugin nodes must ask for: 1 for kernels, 0 for Python."""
registered: set[str] = set()
"""Plugins that were registered."""


class IOptimizationProfile(_Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self._shapes[input] = (min, opt, max)


class IHostMemory(bytes):
    pass


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content + b"timed;")


class IBuilderConfig(_Strict):
    _names = (
        "builder_optimization_level",
        "profiling_verbosity",
        "max_aux_streams",
        "hardware_compatibility_level",
        "progress_monitor",
    )

    def __init__(self) -> None:
        self._profiles: list[IOptimizationProfile] = []
        self._flags = {BuilderFlag.TF32}
        self._pools: dict[Any, int] = {}
        self._cache: ITimingCache | None = None
        self.progress_monitor = None

    def set_flag(self, flag: BuilderFlag) -> None:
        self._flags.add(BuilderFlag(flag))

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(BuilderFlag(flag))

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[MemoryPoolType(pool)] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:  # noqa: ARG002
        if cache._content.startswith(b"another gpu"):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder(_Strict):
    fails = False
    drops: str | None = None
    """Name of a layer that goes missing."""
    configs: list[IBuilderConfig] = []  # noqa: RUF012 (cleared by the fixture)

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        config = IBuilderConfig()
        Builder.configs.append(config)
        return config

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 4)
        monitor.phase_start("Timing", "Building", 100)
        going = all(monitor.step_complete("Building", step) for step in range(4))
        monitor.phase_finish("Building")
        if Builder.fails or not going:
            self._logger.log(ILogger.ERROR, "Error Code 2: OutOfMemory")
            return None
        nodes = onnx.load_from_string(network._model).graph.node
        plan = {
            "flags": network._flags,
            "model": base64.b64encode(network._model).decode(),
            "profiles": [profile._shapes for profile in config._profiles],
            "layers": [f"{node.name}" for node in nodes if node.name != Builder.drops],
        }
        return IHostMemory(json.dumps(plan).encode())


class EngineInspector:
    def __init__(self, layers: list[str]) -> None:
        self._layers = layers

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        assert format is LayerInformationFormat.JSON
        return json.dumps({"Layers": [{"Name": name, "LayerType": "any"} for name in self._layers], "Bindings": []})


class Runtime(_Strict):
    _names = ("engine_host_code_allowed",)

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        try:
            return ICudaEngine(json.loads(serialized_engine))
        except ValueError:
            self._logger.log(ILogger.ERROR, "Error Code 1: Serialization (magic tag does not match)")
            return None


class ICudaEngine(_Strict):
    device_memory_size_v2 = 4096

    def __init__(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        model = onnx.load_from_string(base64.b64decode(plan["model"]))
        self._inputs = {value.name: value for value in model.graph.input}
        self._outputs = {value.name: value for value in model.graph.output}
        self._run = _runner(model)

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return [*self._inputs, *self._outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        kind = {**self._inputs, **self._outputs}[name].type.tensor_type.elem_type
        names = {"FLOAT16": "HALF", "BFLOAT16": "BF16"}
        found = onnx.TensorProto.DataType.Name(kind)
        return DataType[names.get(found, found)]

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._plan["layers"])

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> "IExecutionContext":
        return IExecutionContext(self, ExecutionContextAllocationStrategy(strategy))


def _runner(model: onnx.ModelProto) -> Callable[[list[str], dict[str, Any]], list[Any]]:
    """What computes a graph: ONNX Runtime, or, where plugins are in it, the evaluator that can be taught operators."""
    if plugins := _plugin_types(model):
        return ReferenceEvaluator(model, new_ops=[_operator(node) for node in plugins]).run
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    used = {node.name for node in session.get_inputs()}
    return lambda names, feeds: session.run(names, {name: feeds[name] for name in used})


def _plugin_types(model: onnx.ModelProto) -> set[str]:
    bodies = {function.name for function in model.functions}
    return {node.op_type for node in model.graph.node if node.domain} - bodies


def _operator(node_type: str) -> type[OpRun]:
    """A plugin node's operator for the evaluator: the PyTorch reference of its declaration."""
    import torch

    from img_deploy.kernels.plugin_form import plugin_form

    def run(self: Any, *values: Any, **attributes: Any) -> Any:  # noqa: ARG001
        with torch.no_grad():
            results = plugin_form(node_type).reference([torch.from_numpy(np.array(value)) for value in values])
        return tuple(result.numpy() for result in results)

    return type(node_type, (OpRun,), {"op_domain": "img_deploy", "_run": run})


class IExecutionContext(_Strict):
    executed: list[tuple[int, dict[str, Any]]] = []  # noqa: RUF012 (cleared by the fixture)
    """Profile and shapes of every execution."""
    fails = False
    made = 0

    def __init__(self, engine: ICudaEngine, strategy: Any) -> None:  # noqa: ARG002
        IExecutionContext.made += 1
        self._engine, self._memory, self._profile = engine, 0, -1
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        self._memory = memory

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:  # noqa: ARG002
        self._profile = profile_index
        return 0 <= profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine._plan["profiles"][self._profile][name]
        self._shapes[name] = shape
        return all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory > 0

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes: dict[str, int] = {}
        for given, shape in self._shapes.items():
            dims = self._engine._inputs[given].type.tensor_type.shape.dim
            sizes |= {dim.dim_param: size for dim, size in zip(dims, shape, strict=True) if dim.dim_param}
        dims = {**self._engine._inputs, **self._engine._outputs}[name].type.tensor_type.shape.dim
        return tuple(sizes.get(dim.dim_param, dim.dim_value) for dim in dims)

    def _array(self, name: str) -> np.ndarray:
        dtype = np.dtype(NUMPY[self._engine.get_tensor_dtype(name).name])
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)

    def execute_async_v3(self, stream_handle: int) -> bool:  # noqa: ARG002
        ready = self._memory and self._profile >= 0 and not self.infer_shapes()
        if IExecutionContext.fails or not ready:
            return False
        IExecutionContext.executed.append((self._profile, dict(self._shapes)))
        feeds = {name: self._array(name).copy() for name in self._engine._inputs}
        names = list(self._engine._outputs)
        for name, value in zip(names, self._engine._run(names, feeds), strict=True):
            self._array(name)[...] = value
        return True
