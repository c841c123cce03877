"""ONNX form and TensorRT plugin."""

from typing import Any

from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, layer_norm, linear, restored, shrunk
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import (
    Dims,
    Output,
    PluginForm,
    ceil_div,
    over_padded_rows,
    reference_of,
)
from img_deploy.kernels.plugin_names import PluginName

CLIPS = ("batch", "length", None)


def node_form(_call: Call) -> NodeForm:
    axes = {"first": CLIPS, "second": CLIPS, "x": CLIPS, "mask": ("batch", "length")}
    return NodeForm("ImgBoundaryLogits", axes)


def body(op: Nodes, _call: Call, given: Any) -> tuple[Any, Any]:
    """The ONNX body."""
    return _head(op, given, "start", given.first), _head(op, given, "end", given.second)


def _head(op: Nodes, given: Any, name: str, encoded: Any) -> Any:
    def own(part: str) -> Any:
        return getattr(given, f"{name}_{part}")

    joined = op.Concat(layer_norm(op, encoded, own("norm_weight"), own("norm_bias")), given.x, axis=-1)
    hidden = op.Relu(linear(op, shrunk(op, joined), own("hidden_weight"), shrunk(op, own("hidden_bias"))))
    logits = restored(op, linear(op, hidden, own("weight"), shrunk(op, own("bias"))))
    return op.Where(given.mask, op.Squeeze(logits, [2]), op.floats(MASKED))


def plugin_form(_name: PluginName) -> PluginForm:
    def outputs(dims: Dims) -> tuple[Output, ...]:
        return (Output(tuple(dims["mask"]), "fp32"),) * 2

    return PluginForm(
        op="boundary_logits",
        inputs=tensor_names("boundary_logits"),
        outputs=outputs,
        extras=lambda dims: (dims["x"][1],),
        grid=lambda dims, blocks: (dims["x"][0], ceil_div(dims["x"][1], blocks["ROWS"]), 2),
        variants=over_padded_rows("boundary_logits", lambda sizes: sizes["start_norm_weight"][0]),
        reference=reference_of("boundary_logits"),
    )
