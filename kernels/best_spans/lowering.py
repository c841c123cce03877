"""ONNX: one function per number of spans, which the body spells out."""

from img_deploy.kernels.lowering import Call, NodeForm

PER_CLIP = ("batch", "length")


def node_form(call: Call) -> NodeForm:
    axes = {"start_logits": PER_CLIP, "end_logits": PER_CLIP, "mask": PER_CLIP}
    return NodeForm(f"ImgBestSpans{call.values['k']}", axes)
