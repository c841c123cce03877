"""An exported graph made ready for TensorRT's parser: which nodes become plugins, and which standard ops remain.

TensorRT's parser knows a node by its operator type, and quietly inlines a local function whose plugin it does not
find. So the bodies of nodes that are to be plugins are taken out: a plugin that is missing stops the parser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from img_deploy.errors import BackendError
from img_deploy.kernels.dtypes import named as element_type
from img_deploy.kernels.lowering import DOMAIN
from img_deploy.kernels.plugin_form import plugin_form
from img_deploy.kernels.plugin_names import GRU_NODE, NODE_ATTRIBUTES, RECURRENCE_NODE

if TYPE_CHECKING:
    import onnx

_LARGEST_HIDDEN = 128
"""Hidden size up to which the GRU has a kernel; see ``kernels/bigru``."""


@dataclass(frozen=True)
class PluginNode:
    """A node that becomes a plugin. ``sizes`` holds the largest size of each axis of each input, 0 where unknown."""

    name: str
    node: str
    types: tuple[str, ...]
    sizes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorRTGraph:
    """What the parser is given."""

    model: bytes
    plugins: tuple[PluginNode, ...]


def tensorrt_graph(
    path: Path, limits: Mapping[str, int], plugins: bool = True, references: bool = False
) -> TensorRTGraph:
    """Read an exported graph and prepare it.

    Args:
        path: ONNX file of a bundle.
        limits: axis (``batch``, ``clips``, ``words``, ``chars``) -> largest size.
        plugins: whether nodes of fused ops become plugins; without, their bodies of standard ops are put in place.
        references: whether the plugins call PyTorch's references instead of our kernels.

    Raises:
        BackendError: a node of our domain has no plugin, or lacks a type that its kernel needs to know.
    """
    import onnx
    import onnx.inliner

    model = onnx.load(path)
    values = _values(model, limits)
    if not plugins:
        _loop_gru(model, values)
        return TensorRTGraph(onnx.inliner.inline_local_functions(model).SerializeToString(), ())
    _split_gru(model, values)
    attributes = {**NODE_ATTRIBUTES, "aot": 0 if references else 1}
    found = [_plugin_node(node, values, path, attributes) for node in model.graph.node if _becomes_plugin(node)]
    made = {plugin.node for plugin in found}
    kept = [function for function in model.functions if function.name not in made and function.name in _called(model)]
    del model.functions[:]
    model.functions.extend(kept)
    return TensorRTGraph(model.SerializeToString(), tuple(found))


def has_plugin_nodes(path: Path) -> bool:
    """Whether an exported graph holds fused ops as single nodes."""
    import onnx

    return bool(_called(onnx.load(path)))


def _called(model: "onnx.ModelProto") -> set[str]:
    return {node.op_type for node in model.graph.node if node.domain == DOMAIN}


def _becomes_plugin(node: "onnx.NodeProto") -> bool:
    return node.domain == DOMAIN and not node.op_type.startswith(GRU_NODE)


_Values = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a value -> element type and sizes."""


def _values(model: "onnx.ModelProto", limits: Mapping[str, int]) -> _Values:
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    values: _Values = {}
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        tensor = value.type.tensor_type
        sizes = tuple(limits.get(dim.dim_param, dim.dim_value) for dim in tensor.shape.dim)
        values[value.name] = (onnx.TensorProto.DataType.Name(tensor.elem_type), sizes)
    for weight in inferred.graph.initializer:
        values[weight.name] = (onnx.TensorProto.DataType.Name(weight.data_type), tuple(weight.dims))
    return values


def _plugin_node(
    node: "onnx.NodeProto", values: _Values, path: Path, attributes: Mapping[str, str | int]
) -> PluginNode:
    """Describe a node and give it the attributes that the parser reads. Raises BackendError."""
    import onnx

    try:
        form = plugin_form(node.op_type)
    except ValueError as error:
        raise BackendError(f"{path}: {error}; export the bundle again, or build with --plugins off") from None
    if len(node.input) != len(form.inputs) or any(name not in values for name in node.input):
        missing = [name for name in node.input if name not in values]
        raise BackendError(
            f"{path}: {node.op_type} got {len(node.input)} inputs ({len(missing)} of unknown type), expected "
            f"{len(form.inputs)}; export the bundle again"
        )
    named = dict(zip(form.inputs, (values[name] for name in node.input), strict=True))
    kept = [each for each in node.attribute if each.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(onnx.helper.make_attribute(*each) for each in attributes.items())])
    types = tuple(element_type("onnx", kind).name for kind, _ in named.values())
    return PluginNode(node.name, node.op_type, types, {name: sizes for name, (_, sizes) in named.items()})


def _split_gru(model: "onnx.ModelProto", values: _Values) -> None:
    """Each GRU layer becomes the matrix product of its inputs and the plugin of its loop over time."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        weight = values.get(node.input[3], ("", ()))[1] if node.op_type.startswith(GRU_NODE) else ()
        if weight and weight[-1] <= _LARGEST_HIDDEN:
            nodes += _gru_parts(model, node, values)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _loop_gru(model: "onnx.ModelProto", values: _Values) -> None:
    """Each GRU layer becomes one loop of standard ops."""
    import onnx

    from img_deploy.export.gru_loop import gru_loop

    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.domain == DOMAIN and node.op_type.startswith(GRU_NODE):
            kind, (stacks, _directions, _rows, hidden) = values[node.input[3]]
            made = gru_loop(node, onnx.TensorProto.DataType.Value(kind), stacks, hidden)
            nodes += made.nodes
            model.graph.initializer.extend(made.constants)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _gru_parts(model: "onnx.ModelProto", node: "onnx.NodeProto", values: _Values) -> list["onnx.NodeProto"]:
    import onnx
    from onnx import helper

    x, lengths, weight_ih, weight_hh, bias_ih, bias_hh = node.input
    storage, (stacks, _directions, rows, width) = values[weight_ih]
    prefix = f"{node.name or node.output[0]}/gates"
    tall = f"{prefix}/weight_shape"
    shape = [stacks, 1, 2 * rows, width]
    model.graph.initializer.append(helper.make_tensor(tall, onnx.TensorProto.INT64, [4], shape))
    parts = [
        helper.make_node("Reshape", [weight_ih, tall], [f"{prefix}/w"], f"{prefix}/reshape_weight"),
        helper.make_node("Transpose", [f"{prefix}/w"], [f"{prefix}/wt"], f"{prefix}/transpose", perm=[0, 1, 3, 2]),
        helper.make_node("Transpose", [x], [f"{prefix}/x"], f"{prefix}/transpose_x", perm=[2, 0, 1, 3]),
        helper.make_node("MatMul", [f"{prefix}/x", f"{prefix}/wt"], [f"{prefix}/product"], f"{prefix}/matmul"),
        helper.make_node(
            RECURRENCE_NODE,
            [f"{prefix}/product", lengths, weight_hh, bias_ih, bias_hh],
            list(node.output),
            node.name or node.output[0],
            domain=DOMAIN,
        ),
    ]
    batch, length, *_ = values[x][1] if x in values else (0, 0, 0, 0)
    values[f"{prefix}/product"] = (storage, (stacks, batch, length, 2 * rows))
    return parts
