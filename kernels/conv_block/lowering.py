"""ONNX: one function per number of layers, which the body spells out."""

from img_deploy.kernels.lowering import Call, NodeForm


def node_form(call: Call) -> NodeForm:
    layers = call.size("norm_weight", 0)
    return NodeForm(f"ImgConvBlock{layers}", {"x": ("batch", "length", None), "mask": ("batch", "length")})
