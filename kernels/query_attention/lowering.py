"""ONNX: one function."""

from img_deploy.kernels.lowering import Call, NodeForm


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
