"""ONNX: one function."""

from img_deploy.kernels.lowering import Call, NodeForm

CLIPS = ("batch", "length", None)


def node_form(_call: Call) -> NodeForm:
    axes = {"visual": CLIPS, "audio": CLIPS, "mask": ("batch", "length"), "slots": (None, "batch", None, None)}
    return NodeForm("ImgSlotAttention", axes)
