"""Passes over an ONNX graph: fold, tidy, name and strip it."""

import ast
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from img_deploy.kernels.lowering import DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of the exporter: the modules a node stems from."""
_FOLDED_FROM = "pkg.onnxscript.optimizer.folded_from"
"""Metadata of constant folding: the values a constant stems from."""
_ANY_SIZE = 1 << 40
_SHARED_UP_TO = 16
"""Constants of so many elements are shared; equal weights keep their own names."""


def inline(model: "ir.Model") -> None:
    """Put every function's body in the place of its calls."""
    from onnx_ir.passes import common

    common.InlinePass()(model)
    model.opset_imports.pop(DOMAIN, None)


def optimise(model: "ir.Model") -> None:
    """Fold whatever the weights decide (transposed, split and reordered weights), and drop what nobody uses."""
    import onnxscript.optimizer
    import onnxscript.rewriter
    from onnx_ir.passes import common

    share = common.CommonSubexpressionEliminationPass()
    share(model)  # first, so that a weight used twice is folded once
    for _ in range(2):
        onnxscript.optimizer.fold_constants(model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
        onnxscript.rewriter.rewrite(model)
        unstack(model.graph)
        common.RemoveUnusedNodesPass()(model)
    common.IdentityEliminationPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass(size_limit=_SHARED_UP_TO)(model)
    share(model)
    for tidy in (common.RemoveUnusedNodesPass, common.RemoveUnusedFunctionsPass, common.RemoveUnusedOpsetsPass):
        tidy()(model)


def unstack(graph: "ir.Graph") -> None:
    """``stack(parts)[i]`` is ``parts[i]``."""
    for node in graph:
        if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
            continue
        stacked, index = node.inputs[0], node.inputs[1]
        parts = _stacked_parts(stacked)
        position = index.const_value if index is not None else None
        if parts is None or position is None or position.numpy().ndim != 0:
            continue
        node.outputs[0].replace_all_uses_with(parts[int(position.numpy())], replace_graph_outputs=False)


def _stacked_parts(value: "ir.Value | None") -> "list[ir.Value] | None":
    """The values that were stacked along a new first axis to make this one; None if it was not made so."""
    concat = value.producer() if value is not None else None
    if concat is None or concat.op_type != "Concat" or concat.attributes.get_int("axis", -1) != 0:
        return None
    parts = []
    for item in concat.inputs:
        unsqueeze = item.producer() if item is not None else None
        if unsqueeze is None or unsqueeze.op_type != "Unsqueeze":
            return None
        part, axes = unsqueeze.inputs[0], unsqueeze.inputs[1]
        if part is None or axes is None or axes.const_value is None or axes.const_value.numpy().tolist() != [0]:
            return None
        parts.append(part)
    return parts


def fix_reshapes(graph: "ir.Graph") -> None:
    """Give a Reshape a constant target where it only splits or joins axes behind (or before) free ones.

    The exporter computes the target from the sizes of the free axes; 0 (keep this axis) and one -1 say the same.
    """
    import numpy as np
    import onnx_ir as ir

    for node in graph:
        if node.op_type != "Reshape":
            continue
        source, target = node.inputs[0], node.inputs[1]
        before, after = source.shape if source is not None else None, node.outputs[0].shape
        if before is None or after is None or target is None or target.producer() is None:
            continue
        kept = [index < len(before) and before[index] == size for index, size in enumerate(after)]
        sizes = [size if isinstance(size, int) else 0 if keep else -1 for size, keep in zip(after, kept, strict=True)]
        if sizes.count(-1) > 1:
            continue
        constant = ir.Node("", "Constant", [], [ir.AttrTensor("value", ir.tensor(np.array(sizes, np.int64)))])
        graph.insert_before(node, constant)
        node.replace_input_with(1, constant.outputs[0])
        node.attributes.pop("allowzero", None)  # no axis is ever empty


def widen(graph: "ir.Graph", opset: int) -> bool:
    """Compute in float32 where the standard op takes no bfloat16 (convolutions before opset 22). True if any does."""
    import onnx
    import onnx_ir as ir

    found = False
    for node in graph:
        if node.domain != "":
            continue
        schema = onnx.defs.get_schema(node.op_type, opset)
        types = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
        wide = set()
        for index, value in enumerate(node.inputs):
            kind = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
            if value is None or value.dtype != ir.DataType.BFLOAT16 or "tensor(bfloat16)" in types.get(kind, ()):
                continue
            wide.add(kind)
            node.replace_input_with(index, _cast(graph, node, value, ir.DataType.FLOAT, before=True))
        for index, output in enumerate(node.outputs):
            if schema.outputs[min(index, len(schema.outputs) - 1)].type_str in wide:
                uses = list(output.uses())
                narrow = _cast(graph, node, output, ir.DataType.BFLOAT16, before=False)
                output.type = ir.TensorType(ir.DataType.FLOAT)
                for use in uses:
                    use.node.replace_input_with(use.idx, narrow)
        found = found or bool(wide)
    return found


def _cast(graph: "ir.Graph", node: "ir.Node", value: "ir.Value", to: "ir.DataType", before: bool) -> "ir.Value":
    import onnx_ir as ir

    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", to)], metadata_props=dict(node.metadata_props))
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(to), value.shape
    (graph.insert_before if before else graph.insert_after)(node, cast)
    return cast.outputs[0]


def name_nodes(graph: "ir.Graph", weights: Collection[str] = ()) -> None:
    """Name every node ``<module path>/<op>``, its outputs after it, and constants after the weights they stem from.

    Inputs, outputs and ``weights`` keep their names. The same graph gets the same names.
    """
    fixed = {*graph.inputs, *graph.outputs}
    initializers = list(graph.initializers.values())
    fixed.update(value for value in initializers if value.name in weights)
    taken = {value.name for value in fixed}

    def unique(wanted: str) -> str:
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        return name

    for node in graph:
        node.name = unique("/".join(part for part in (_scope(node), node.op_type) if part))
        for index, output in enumerate(node.outputs):
            if output not in fixed:
                output.name = f"{node.name}:{index}" if index else node.name
    for value in initializers:
        if value not in fixed:
            sources = [source for source in _listed(value.metadata_props.get(_FOLDED_FROM)) if source in weights]
            consumers = sorted(node.name or "" for node in value.consumers())
            value.name = unique(f"{sources[0]}.folded" if sources else f"{consumers[0]}.constant")
    graph.initializers.clear()
    for value in sorted(initializers, key=lambda value: value.name or ""):
        graph.initializers[value.name or ""] = value


def _scope(node: "ir.Node") -> str:
    """The path of the module that a node stems from."""
    scopes = [scope for scope in _listed(node.metadata_props.get(_SCOPES)) if scope]
    return scopes[-2] if len(scopes) > 1 and not scopes[-2].startswith("_") else ""


def _listed(text: str | None) -> list[str]:
    try:
        return list(ast.literal_eval(text)) if text else []
    except (ValueError, SyntaxError):
        return []


def strip(model: "ir.Model") -> None:
    """Drop doc strings and metadata: the exporter writes stack traces with the paths of this machine there."""
    from onnx_ir.passes import common

    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for value in _values(graph):
            value.metadata_props.clear()
            value.doc_string = None


def forget_types(graph: "ir.Graph", *kept: "ir.Value") -> None:
    """Drop types and shapes of values between nodes (symbols of one graph mean nothing in another)."""
    for value in _values(graph):
        if not value.is_initializer() and value not in kept:
            value.type = value.shape = None


def rename_axes(graph: "ir.Graph", names: Mapping[str, str]) -> None:
    """Give the symbols of the program their names: ``{"s30": "batch"}``."""
    import onnx_ir as ir

    pattern = re.compile("|".join(rf"\b{re.escape(symbol)}\b" for symbol in names))

    def renamed(size: Any) -> Any:
        return size if isinstance(size, int) else pattern.sub(lambda found: names[found[0]], str(size.value))

    for value in _values(graph):
        if value.shape is not None:
            value.shape = ir.Shape([renamed(size) for size in value.shape])


def _values(graph: "ir.Graph") -> "Iterable[ir.Value]":
    import onnx_ir as ir

    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
