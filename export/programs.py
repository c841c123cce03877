"""The four deployable modules as ``torch.export`` programs: one node per fused op, every axis that varies left free."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from img_deploy.errors import ConfigError
from img_deploy.kernels.dispatch import OP_NAMES, use_ops
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.text.tokens import MAX_CHARS, MAX_WORDS
from img_deploy.text.vocabulary import MIN_WORD_WIDTH

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from img_deploy.model.network import IMGNetwork

MAX_BATCH = 1 << 16

_TRACED_SIZES = {"batch": 3, "clips": 11, "words": 5, "chars": 6}
"""None is 1 and no two are alike, or the trace would take a size for a constant, or one axis for another."""


def limits(config: ModelConfig) -> dict[str, int]:
    """The longest inputs that the graphs take."""
    return {"clips": config.max_clips, "words": MAX_WORDS, "chars": MAX_CHARS}


def program_from_graph(network: "IMGNetwork", spec: GraphSpec, ops: Iterable[str] = OP_NAMES) -> "ExportedProgram":
    """Trace one graph of a network, on the device and in the dtype of its weights.

    Args:
        ops: fused ops that stay one node each; the others are traced through their references.

    Raises:
        ConfigError: the network takes too few clips for the number of clips to be an axis.
        RuntimeError: an axis was taken for a constant (a change of the network brought it in).
    """
    import torch

    if network.config.max_clips < 3:
        raise ConfigError(f"max_clips is {network.config.max_clips}, export needs at least 3")
    dims = _dims(network.config)
    sizes = _TRACED_SIZES | {"clips": min(_TRACED_SIZES["clips"], network.config.max_clips)}
    with use_ops(ops), torch.no_grad():
        program = torch.export.export(
            network.graphs[spec.name],
            tuple(_example(tensor, sizes, network) for tensor in spec.inputs),
            dynamic_shapes=tuple({i: dims[axis] for i, axis in t.dynamic_axes.items()} for t in spec.inputs),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    _check_axes(program, spec)
    return program


def _dims(config: ModelConfig) -> Mapping[str, "torch.export.Dim"]:
    from torch.export import Dim

    longest = limits(config) | {"batch": MAX_BATCH}
    return {axis: Dim(axis, min=MIN_WORD_WIDTH if axis == "chars" else 1, max=most) for axis, most in longest.items()}


def _example(tensor: TensorSpec, sizes: Mapping[str, int], network: "IMGNetwork") -> "torch.Tensor":
    import torch

    shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
    weight = next(network.parameters())
    dtype = {"bool": torch.bool, "int64": torch.int64}.get(tensor.dtype, weight.dtype)
    return torch.ones(shape, dtype=dtype, device=weight.device)


def _check_axes(program: "ExportedProgram", spec: GraphSpec) -> None:
    """Every dynamic axis must still be a symbol, and reach down to 1 (characters: 4)."""
    import torch

    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    for tensor, name in zip(spec.inputs, program.graph_signature.user_inputs, strict=True):
        for index, axis in tensor.dynamic_axes.items():
            size = values[name].shape[index]
            least = MIN_WORD_WIDTH if axis == "chars" else 1
            if not isinstance(size, torch.SymInt):
                raise RuntimeError(f"{spec.name}: axis {axis} of {tensor.name} became {size}, expected it to stay free")
            range_ = program.range_constraints[size.node.expr]
            if range_.lower > least:
                raise RuntimeError(f"{spec.name}: axis {axis} of {tensor.name} starts at {range_.lower}, not {least}")
