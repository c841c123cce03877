"""ONNX form and TensorRT plugin."""

from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, columns, depthwise, gate, linear, restored, rows, shrunk
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName

CLIPS = ("batch", "length", None)


def node_form(_call: Call) -> NodeForm:
    axes = {"visual": CLIPS, "audio": CLIPS, "importance": ("batch",), "mask": ("batch", "length")}
    return NodeForm("ImgLocalFusion", axes)


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body."""
    keep = op.Cast(op.Unsqueeze(given.mask, [2]), to=op.storage)
    dim = call.size("conv1_weight", 1)
    branches = []
    for m, x in enumerate((given.visual, given.audio)):
        own, clips = op.at(given, m), columns(op, shrunk(op, op.Mul(x, keep)))
        widths = []
        for place, name in enumerate(("conv1_weight", "conv3_weight", "conv5_weight")):
            bias = shrunk(op, op.part(own("conv_bias"), place))
            widths.append(op.Relu(depthwise(op, clips, own(name), bias, dim, call.size(name, 2))))
        hidden = rows(op, op.Concat(*widths, axis=1), 3 * dim)
        projected = restored(op, linear(op, hidden, own("proj_weight"), shrunk(op, own("proj_bias"))))
        branches.append(op.Reshape(projected, op.Shape(x)))
    return gate(op, branches[0], branches[1], given)


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("local_fusion", lambda sizes: sizes["norm_weight"][1])
    return over_rows("local_fusion", tensor_names("local_fusion"), variants)
