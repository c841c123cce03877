"""ONNX form and TensorRT plugin."""

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName


def node_form(_call: Call) -> NodeForm:
    return NodeForm(
        "ImgQueryAttention",
        {
            "clips": ("batch", "length", None),
            "words": ("batch", "words", None),
            "clip_mask": ("batch", "length"),
            "word_mask": ("batch", "words"),
        },
    )


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("query_attention", lambda sizes: sizes["clip_weight"][0])
    inputs = tensor_names("query_attention")
    return over_rows("query_attention", inputs, variants, extras=lambda dims: (dims["clips"][1], dims["words"][1]))
