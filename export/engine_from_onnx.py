"""A TensorRT engine from one exported graph. The full edition's, with our kernels inside, is not yet run on a GPU.

Networks are strongly typed: what a tensor is in the ONNX graph it is in the engine, and no precision is chosen here.
"""

import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img_deploy.errors import BackendError, one_line
from img_deploy.export.engine_log import BuildLog, progress_monitor, stopping
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.tensorrt_graph import PluginNode, TensorRTGraph
from img_deploy.files import replacing_file
from img_deploy.kernels.dtypes import named
from img_deploy.model.graphs import GraphSpec
from img_deploy.runtime.backends.buckets import shape_range
from img_deploy.runtime.backends.tensorrt.edition import Edition
from img_deploy.runtime.backends.tensorrt.profiles import Profile
from img_deploy.runtime.backends.tensorrt.records import TrtMachine

_HARDWARE = {"same_gpu": "NONE", "same_capability": "SAME_COMPUTE_CAPABILITY", "ampere_plus": "AMPERE_PLUS"}


@dataclass(frozen=True)
class Target:
    """What builds, and for which machine."""

    edition: Edition
    trt: Any
    """Its Python package."""
    machine: TrtMachine


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine and what is known of it."""

    plan: bytes
    plugins: dict[str, str]
    """Layer -> plugin."""
    layers: tuple[str, ...]
    inputs: dict[str, str]
    """Input -> torch dtype."""
    outputs: dict[str, str]
    seconds: float


def engine_from_onnx(
    graph: TensorRTGraph,
    spec: GraphSpec,
    profiles: tuple[Profile, ...],
    options: EngineOptions,
    target: Target,
    log: BuildLog,
    tell: Callable[[str], None],
) -> BuiltEngine:
    """Build an engine.

    Args:
        graph: made by :func:`img_deploy.export.tensorrt_graph.tensorrt_graph`; its plugins are registered.
        spec: the graph's declaration.
        profiles: the sizes it takes.
        options: how to build.
        target: the library, and the machine to build for.
        log: takes what TensorRT says.
        tell: is told how far it is.

    Raises:
        BackendError: TensorRT refuses the graph, cannot build it, or left a plugin out.
        KeyboardInterrupt: the build was stopped; it ends after its current step.
    """
    began, trt = time.monotonic(), target.trt
    builder = _builder(target, log)
    network, parser = _network(target, builder, graph, spec, log)
    config = builder.create_builder_config()
    with stopping() as stop:
        config.progress_monitor = progress_monitor(trt, tell, stop)
        _configure(target, config, options)
        _add_profiles(target, builder, config, network, spec, profiles)
        cache = None if target.edition.builds_anywhere else _timing_cache(config, options.timing_cache)
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = log.why() or "no reason given"
        raise BackendError(f"{target.edition.title} could not build {spec.name} ({why}); see {log.path}")
    if cache is not None and options.timing_cache is not None:
        options.timing_cache.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(options.timing_cache) as stream:
            stream.write(bytes(config.get_timing_cache().serialize()))
    del parser  # holds weights that the network refers to until here
    serialized = bytes(plan)
    inputs = _types(network.get_input(index) for index in range(network.num_inputs))
    outputs = _types(network.get_output(index) for index in range(network.num_outputs))
    # An engine for a GPU that is not here cannot be opened; its layers are in the log of its build.
    opened = None if target.edition.builds_anywhere else _opened(target, serialized, options, spec, log)
    layers = log.layers() if opened is None else layer_names(trt, opened)
    plugins = _plugins_among(layers, graph.plugins, spec, log)
    return BuiltEngine(serialized, plugins, tuple(layers), inputs, outputs, time.monotonic() - began)


def _types(tensors: Iterable[Any]) -> dict[str, str]:
    return {tensor.name: named("tensorrt", tensor.dtype.name).torch for tensor in tensors}


def _builder(target: Target, log: BuildLog) -> Any:
    try:
        return target.trt.Builder(log.logger)
    except (TypeError, RuntimeError) as error:  # what the bindings raise where no GPU or driver answers
        reason = log.why() or one_line(error, 200)
        version = target.trt.__version__
        raise BackendError(
            f"{target.edition.title} {version} does not start here ({reason}); check the driver with `nvidia-smi`"
        ) from None


def _network(target: Target, builder: Any, graph: TensorRTGraph, spec: GraphSpec, log: BuildLog) -> tuple[Any, Any]:
    trt = target.trt
    flags = trt.NetworkDefinitionCreationFlag
    if target.edition.builds_anywhere:
        asked = [flags.STRONGLY_TYPED]
    else:
        asked = [flags.PREFER_AOT_PYTHON_PLUGINS]
        if int(trt.__version__.split(".")[0]) < 11:
            asked.append(flags.STRONGLY_TYPED)  # from 11 on there are no other networks
    network = builder.create_network(sum(1 << int(flag) for flag in asked))
    parser = trt.OnnxParser(network, log.logger)
    if not target.edition.builds_anywhere:
        parser.set_flag(trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
    if not parser.parse(graph.model):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = [f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}".strip() for error in errors]
        for line in said:
            log.write("ERROR", line)
        why = log.why() or "no reason given"
        raise BackendError(f"{target.edition.title}'s parser refuses {spec.name} ({why}); see {log.path}")
    return network, parser


def _configure(target: Target, config: Any, options: EngineOptions) -> None:
    trt = target.trt
    config.clear_flag(trt.BuilderFlag.TF32)  # 1e-3 off in fp32
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the layers cannot be listed
    config.max_aux_streams = 0  # one stream, which a CUDA graph holds whole
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if target.edition.builds_anywhere:
        config.num_compute_capabilities = 1
        config.set_compute_capability(target.edition.capabilities(trt)[target.machine.capability], 0)
        return
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[options.hardware])
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _add_profiles(
    target: Target, builder: Any, config: Any, network: Any, spec: GraphSpec, profiles: tuple[Profile, ...]
) -> None:
    specs = {tensor.name: tensor for tensor in spec.inputs}
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    for profile in profiles:
        made = builder.create_optimization_profile()
        for name in names:
            made.set_shape(name, *shape_range(specs[name], profile))
        if config.add_optimization_profile(made) < 0:
            raise BackendError(f"{target.edition.title} refuses a profile of {spec.name}: {dict(profile)}")


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


def _opened(target: Target, plan: bytes, options: EngineOptions, spec: GraphSpec, log: BuildLog) -> Any:
    runtime = target.trt.Runtime(log.logger)
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
