"""ONNX form and TensorRT plugin."""

from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, gate
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName

CLIPS = ("batch", "length", None)


def node_form(_call: Call) -> NodeForm:
    return NodeForm("ImgGate", {"visual": CLIPS, "audio": CLIPS, "importance": ("batch",)})


def body(op: Nodes, _call: Call, given: Any) -> Any:
    """The ONNX body."""
    return gate(op, op.to_wide(given.visual), op.to_wide(given.audio), given)


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("gate", lambda sizes: sizes["norm_weight"][1])
    return over_rows("gate", tensor_names("gate"), variants)
