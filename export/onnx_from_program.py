"""ONNX from a traced graph: standard ops alone, named, folded, checked, and free of this machine's paths."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from img_deploy.export.exporter import OPSET, onnx_model
from img_deploy.export.functions import FunctionLibrary
from img_deploy.export.graph_passes import (
    fix_reshapes,
    forget_types,
    inline,
    name_nodes,
    optimise,
    rename_axes,
    strip,
    widen,
)
from img_deploy.kernels.lowering import DOMAIN
from img_deploy.kernels.plugin_names import GRU_NODE, NODE_ATTRIBUTES
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import GraphSpec

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    from torch.export import ExportedProgram

FORMAT = "img-deploy"
SCHEMA = 1
IR_VERSION = 10
ONNX_TYPES = {
    "float32": "FLOAT",
    "bool": "BOOL",
    "int64": "INT64",
    "fp32": "FLOAT",
    "fp16": "FLOAT16",
    "bf16": "BFLOAT16",
}
"""Of a declared type, or of the precision that a declared ``float`` stands for."""


def onnx_from_program(
    program: "ExportedProgram",
    spec: GraphSpec,
    library: FunctionLibrary,
    metadata: Mapping[str, str],
    precision: str = "fp32",
    plugins: bool = False,
) -> "onnx.ModelProto":
    """Translate a traced graph.

    Args:
        program: made by :func:`img_deploy.export.programs.program_from_graph`.
        spec: the same graph; its names become those of inputs, outputs and free axes.
        library: functions of the fused ops, shared by the graphs of one network.
        metadata: written into the model as it is.
        precision: what the program computes in; only checked here.
        plugins: leave each fused op one node, which calls a function of the model and which TensorRT may replace by
            a plugin; otherwise the graph holds standard ops alone.

    Returns:
        A model that passed the checker and strict shape inference. The same program gives the same bytes.
    """
    import onnx_ir as ir

    model = onnx_model(program, library.translations())
    for value, tensor in zip(model.graph.inputs, spec.inputs, strict=True):
        value.name = tensor.name
    for value, tensor in zip(model.graph.outputs, spec.outputs, strict=True):
        value.name = tensor.name
    rename_axes(model.graph, _symbols(model.graph, spec))
    fix_reshapes(model.graph)
    library.add_to(model)
    if not plugins:
        inline(model)
    optimise(model)
    if widen(model.graph, OPSET):
        optimise(model)
    name_nodes(model.graph, weights={*program.state_dict, *program.constants})
    strip(model)
    forget_types(model.graph, *model.graph.inputs, *model.graph.outputs)
    model.graph.name = spec.name
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = FORMAT, None
    model.metadata_props.update(sorted(metadata.items()))
    proto = ir.serde.serialize_model(model)
    _mark_plugins(proto)
    check(proto, spec, precision)
    return proto


def model_metadata(spec: GraphSpec, config: ModelConfig, precision: str, plugins: bool = False) -> dict[str, str]:
    """What a graph says of itself."""
    import onnx
    import torch

    settings = json.dumps(config.as_dict(), sort_keys=True)
    return {
        "format": FORMAT,
        "schema": str(SCHEMA),
        "graph": spec.name,
        "precision": precision,
        "plugins": "on" if plugins else "off",
        "config_sha256": hashlib.sha256(settings.encode()).hexdigest(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
    }


def check(proto: "onnx.ModelProto", spec: GraphSpec, precision: str) -> None:
    """The checker, strict shape inference with data propagation, and names, types and axes as declared.

    Raises:
        RuntimeError: one of them failed: an error of this program, or of the exporter beneath it.
    """
    import onnx

    try:
        onnx.checker.check_model(proto, full_check=True)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RuntimeError(f"{spec.name}: the exported graph is not valid: {error}") from error
    for found, wanted in ((proto.graph.input, spec.inputs), (proto.graph.output, spec.outputs)):
        for value, tensor in zip(found, wanted, strict=True):
            own = value.type.tensor_type
            axes = tuple(dim.dim_param or dim.dim_value for dim in own.shape.dim)
            kind = onnx.TensorProto.DataType.Name(own.elem_type)
            declared = (tensor.name, tensor.axes, ONNX_TYPES.get(tensor.dtype, ONNX_TYPES[precision]))
            if (value.name, axes, kind) != declared:
                raise RuntimeError(f"{spec.name}: has {value.name} {axes} {kind}, declared is {declared}")


def _mark_plugins(proto: "onnx.ModelProto") -> None:
    """Give nodes that may become plugins what TensorRT's parser reads there."""
    import onnx

    for node in proto.graph.node:
        if node.domain == DOMAIN and not node.op_type.startswith(GRU_NODE):
            node.attribute.extend(onnx.helper.make_attribute(*each) for each in NODE_ATTRIBUTES.items())
    for function in proto.functions:
        if not function.name.startswith(GRU_NODE):
            function.attribute.extend(NODE_ATTRIBUTES)


def _symbols(graph: "ir.Graph", spec: GraphSpec) -> dict[str, str]:
    """Symbol of the program -> name of the axis."""
    names: dict[str, str] = {}
    for value, tensor in zip(graph.inputs, spec.inputs, strict=True):
        assert value.shape is not None
        for index, axis in tensor.dynamic_axes.items():
            size = value.shape[index]
            assert not isinstance(size, int), f"{tensor.name}: axis {axis} is fixed"
            names[str(size.value)] = axis
    return names
