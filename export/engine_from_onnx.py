"""A TensorRT engine from one exported graph, with our kernels inside. Not yet run on a GPU.

Networks are strongly typed: what a tensor is in the ONNX graph it is in the engine, and no precision is chosen here.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img_deploy.errors import BackendError, one_line
from img_deploy.export.engine_log import BuildLog, progress_monitor
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.tensorrt_graph import PluginNode, TensorRTGraph
from img_deploy.model.graphs import GraphSpec
from img_deploy.runtime.backends.buckets import shape_range
from img_deploy.runtime.backends.tensorrt.engine import io_tensors
from img_deploy.runtime.backends.tensorrt.profiles import Profile, profiles

_HARDWARE = {"same_gpu": "NONE", "same_capability": "SAME_COMPUTE_CAPABILITY", "ampere_plus": "AMPERE_PLUS"}


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine and what is known of it."""

    plan: bytes
    profiles: tuple[Profile, ...]
    plugins: dict[str, str]
    """Layer -> plugin."""
    layers: tuple[str, ...]
    inputs: dict[str, str]
    outputs: dict[str, str]
    seconds: float


def engine_from_onnx(
    graph: TensorRTGraph,
    spec: GraphSpec,
    limits: Mapping[str, int],
    options: EngineOptions,
    trt: Any,
    log: BuildLog,
    tell: Callable[[str], None],
) -> BuiltEngine:
    """Build an engine.

    Args:
        graph: made by :func:`img_deploy.export.tensorrt_graph.tensorrt_graph`; its plugins are registered.
        spec: the graph's declaration.
        limits: axis (``clips``, ``words``, ``chars``) -> longest input.
        options: what to build.
        trt: the ``tensorrt`` module, 10.15 or newer.
        log: takes what TensorRT says.
        tell: is told how far it is.

    Raises:
        BackendError: TensorRT refuses the graph, cannot build it, or left a plugin out.
    """
    began = time.monotonic()
    builder = _builder(trt, log)
    network, parser = _network(trt, builder, graph, spec, log)
    config = builder.create_builder_config()
    monitor = progress_monitor(trt, tell)
    _configure(trt, config, options, monitor)
    found = profiles(limits, options.max_batch)
    _add_profiles(builder, config, network, spec, found)
    cache = _timing_cache(config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    del parser  # holds weights that the network refers to until here
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise BackendError(f"TensorRT could not build {spec.name} ({log.why() or 'no reason given'}); see {log.path}")
    if cache is not None and options.timing_cache is not None:
        _write(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    serialized = bytes(plan)
    engine = _opened(trt, serialized, options, spec, log)
    layers = layer_names(trt, engine)
    plugins = _plugins_among(layers, graph.plugins, spec, log)
    inputs, outputs = io_tensors(trt, engine)
    return BuiltEngine(serialized, found, plugins, tuple(layers), inputs, outputs, time.monotonic() - began)


def _builder(trt: Any, log: BuildLog) -> Any:
    try:
        return trt.Builder(log.logger)
    except (TypeError, RuntimeError) as error:  # what the bindings raise where no GPU or driver answers
        reason = log.why() or one_line(error, 200)
        raise BackendError(
            f"TensorRT {trt.__version__} does not start here ({reason}); check the driver with `nvidia-smi`"
        ) from None


def _network(trt: Any, builder: Any, graph: TensorRTGraph, spec: GraphSpec, log: BuildLog) -> tuple[Any, Any]:
    flags = trt.NetworkDefinitionCreationFlag
    asked = [flags.PREFER_AOT_PYTHON_PLUGINS]
    if int(trt.__version__.split(".")[0]) < 11:
        asked.append(flags.STRONGLY_TYPED)  # from 11 on there are no other networks
    network = builder.create_network(sum(1 << int(flag) for flag in asked))
    parser = trt.OnnxParser(network, log.logger)
    parser.set_flag(trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
    if not parser.parse(graph.model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = [f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}".strip() for error in errors]
        for line in said:
            log.write("ERROR", line)
        raise BackendError(f"TensorRT's parser refuses {spec.name} ({log.why() or 'no reason given'}); see {log.path}")
    return network, parser


def _configure(trt: Any, config: Any, options: EngineOptions, monitor: Any) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)  # 1e-3 off in fp32
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the layers cannot be listed
    config.max_aux_streams = 0  # one stream, which a CUDA graph holds whole
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[options.hardware])
    config.progress_monitor = monitor
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)


def _add_profiles(builder: Any, config: Any, network: Any, spec: GraphSpec, found: tuple[Profile, ...]) -> None:
    specs = {tensor.name: tensor for tensor in spec.inputs}
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    for profile in found:
        made = builder.create_optimization_profile()
        for name in names:
            made.set_shape(name, *shape_range(specs[name], profile))
        if config.add_optimization_profile(made) < 0:
            raise BackendError(f"TensorRT refuses a profile of {spec.name}: {dict(profile)}")


def _timing_cache(config: Any, path: Path | None) -> Any:
    """Start from the timings of earlier builds. None where no file is given."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        # Of another GPU or TensorRT: begin anew; the file is replaced after the build.
        cache = config.create_timing_cache(b"")
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            raise BackendError(f"TensorRT takes no timing cache, not even an empty one; build without {path}")
    return cache


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _opened(trt: Any, plan: bytes, options: EngineOptions, spec: GraphSpec, log: BuildLog) -> Any:
    runtime = trt.Runtime(log.logger)
    runtime.engine_host_code_allowed = options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT cannot load the {spec.name} it just built ({log.why()}); see {log.path}")
    return engine


def layer_names(trt: Any, engine: Any) -> list[str]:
    """Names of an engine's layers, as its inspector tells them."""
    told = json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    return [layer if isinstance(layer, str) else layer["Name"] for layer in told["Layers"]]


def _plugins_among(layers: list[str], wanted: tuple[PluginNode, ...], spec: GraphSpec, log: BuildLog) -> dict[str, str]:
    """Layer -> plugin for every plugin. Raises BackendError: one is no layer of the engine."""
    found, missing = {}, []
    for plugin in wanted:
        layer = next((layer for layer in layers if _names(layer, plugin.name)), None)
        if layer is None:
            missing.append(f"{plugin.name} ({plugin.node})")
        else:
            found[layer] = plugin.node
    if missing:
        raise BackendError(f"the engine of {spec.name} lacks the plugins {', '.join(missing)}; see {log.path}")
    return found


def _names(layer: str, node: str) -> bool:
    """Whether a layer is this node: of its name, or with something of TensorRT's around it."""
    return re.search(rf"(?<![\w./]){re.escape(node)}(?![\w./])", layer) is not None
