"""From a graph to the plan of an engine."""

import base64
import json
from typing import Any

import onnx

from .names import (
    BuilderFlag,
    DataType,
    ILogger,
    MemoryPoolType,
    OnnxParserFlag,
    _Strict,
)


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
