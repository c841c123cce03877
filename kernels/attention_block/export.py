"""ONNX form and TensorRT plugins: attention to itself, to words, and to slots, which are never masked.

The ONNX body spells out the heads, so their number is part of the name.
"""

from typing import TYPE_CHECKING

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import PluginForm, Sizes, Variant, by_batch, number_of, over_rows, reference_of
from img_deploy.kernels.plugin_names import PluginName

if TYPE_CHECKING:
    from torch import Tensor

X = ("batch", "length", None)
CONTEXT = ("batch", "context", None)
ABSENT = {
    "ImgSelfAttention": ("context", "norm_context_weight", "norm_context_bias"),
    "ImgWordsCrossAttention": (),
    "ImgSlotsCrossAttention": ("context_mask",),
}
"""Optional tensors that a node goes without."""


def node_form(call: Call) -> NodeForm:
    heads = call.values["heads"]
    if not call.given("context"):
        return NodeForm(f"ImgSelfAttention{heads}", {"x": X, "context_mask": ("batch", "length")})
    if not call.given("context_mask"):
        return NodeForm(f"ImgSlotsCrossAttention{heads}", {"x": X, "context": ("batch", None, None)})
    return NodeForm(
        f"ImgWordsCrossAttention{heads}", {"x": X, "context": CONTEXT, "context_mask": ("batch", "context")}
    )


def plugin_form(name: PluginName) -> PluginForm:
    heads, absent, every = number_of(name, "heads"), ABSENT[name.kind], tensor_names("attention_block")
    inputs = tuple(each for each in every if each not in absent)
    keys = "context" if "context" in inputs else "x"

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.attention_block.kernel import attention_block_kernel, constants

        without = {f"{each}_ptr": None for each in absent}
        return by_batch(attention_block_kernel, {**constants(sizes["norm_x_weight"][0], heads), **without})

    def reference(tensors: "list[Tensor]") -> "tuple[Tensor, ...]":
        given = dict(zip(inputs, tensors, strict=True))
        return reference_of("attention_block", heads)([given.get(each) for each in every])  # type: ignore[misc]

    return over_rows("attention_block", inputs, variants, reference, extras=lambda dims: (dims["x"][1], dims[keys][1]))
