"""ONNX: one function per number of iterations, which the body spells out."""

from img_deploy.kernels.lowering import Call, NodeForm

CLIPS = ("batch", "length", None)


def node_form(call: Call) -> NodeForm:
    axes = {"visual": CLIPS, "audio": CLIPS, "mask": ("batch", "length"), "slots": (None, "batch", None, None)}
    return NodeForm(f"ImgSlotAttention{call.values['iterations']}", axes)
