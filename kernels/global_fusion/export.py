"""ONNX form and TensorRT plugin."""

from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, attention_pool, gate, linear, restored, shrunk
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName

CLIPS = ("batch", "length", None)


def node_form(_call: Call) -> NodeForm:
    axes = {"visual": CLIPS, "audio": CLIPS, "importance": ("batch",), "mask": ("batch", "length")}
    return NodeForm("ImgGlobalFusion", axes)


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body: the pooled vector's part of the projection is the same for every clip."""
    dim = call.size("proj_weight", 1)
    branches = []
    for m, x in enumerate((given.visual, given.audio)):
        own = op.at(given, m)
        pooled = attention_pool(op, x, own("pool_weight"), given.mask)  # [B, 1, D]
        of_pooled, of_clips = (op.cut(own("proj_weight"), half, dim, axis=1) for half in range(2))
        shared = linear(op, shrunk(op, pooled), of_pooled, shrunk(op, own("proj_bias")))
        branches.append(restored(op, op.Add(linear(op, shrunk(op, x), of_clips), shared)))
    return gate(op, branches[0], branches[1], given)


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("global_fusion", lambda sizes: sizes["norm_weight"][1])
    return over_rows("global_fusion", tensor_names("global_fusion"), variants)
