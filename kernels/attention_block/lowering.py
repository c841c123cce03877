"""ONNX: self-attention, attention to words, and attention to slots (none of them masked) are three functions."""

from img_deploy.kernels.lowering import Call, NodeForm

X = ("batch", "length", None)
CONTEXT = ("batch", "context", None)


def node_form(call: Call) -> NodeForm:
    if not call.given("context"):
        return NodeForm("ImgSelfAttention", {"x": X, "context_mask": ("batch", "length")})
    if not call.given("context_mask"):
        return NodeForm("ImgSlotsCrossAttention", {"x": X, "context": ("batch", None, None)})
    return NodeForm("ImgWordsCrossAttention", {"x": X, "context": CONTEXT, "context_mask": ("batch", "context")})
