"""An engine that computes on the memory at the addresses it is told."""

import base64
import ctypes
import json
from typing import Any

import numpy as np
import onnx

from .evaluation import runner
from .names import (
    DataType,
    ExecutionContextAllocationStrategy,
    ILogger,
    LayerInformationFormat,
    TensorIOMode,
    _Strict,
)

NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64}


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
        self._run = runner(model)

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
