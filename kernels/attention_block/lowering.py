"""ONNX: self-attention, attention to words, and attention to slots (none of them masked) are three functions.

The body spells out the heads, so their number is part of the name.
"""

from img_deploy.kernels.lowering import Call, NodeForm

X = ("batch", "length", None)
CONTEXT = ("batch", "context", None)


def node_form(call: Call) -> NodeForm:
    heads = call.values["heads"]
    if not call.given("context"):
        return NodeForm(f"ImgSelfAttention{heads}", {"x": X, "context_mask": ("batch", "length")})
    if not call.given("context_mask"):
        return NodeForm(f"ImgSlotsCrossAttention{heads}", {"x": X, "context": ("batch", None, None)})
    return NodeForm(
        f"ImgWordsCrossAttention{heads}", {"x": X, "context": CONTEXT, "context_mask": ("batch", "context")}
    )
