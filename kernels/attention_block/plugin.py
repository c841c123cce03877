"""TensorRT plugins of the attention block: to itself, to words, and to slots, which are never masked."""

from typing import TYPE_CHECKING

from img_deploy.kernels.plugin_form import PluginForm, Sizes, Variant, for_crowds, number_of, over_rows, reference_of
from img_deploy.kernels.plugin_names import PluginName

if TYPE_CHECKING:
    from torch import Tensor

_NORM_X = ("norm_x_weight", "norm_x_bias")
_NORM_CONTEXT = ("norm_context_weight", "norm_context_bias")
_REST = ("qkv_weight", "qkv_bias", "norm_out_weight", "norm_out_bias", "out_weight", "out_bias")
INPUTS = {
    "ImgSelfAttention": ("x", "context_mask", *_NORM_X, *_REST),
    "ImgWordsCrossAttention": ("x", "context", "context_mask", *_NORM_X, *_NORM_CONTEXT, *_REST),
    "ImgSlotsCrossAttention": ("x", "context", *_NORM_X, *_NORM_CONTEXT, *_REST),
}
_ALL = INPUTS["ImgWordsCrossAttention"]


def plugin_form(name: PluginName) -> PluginForm:
    heads = number_of(name, "heads")
    inputs = INPUTS[name.kind]
    keys = "context" if "context" in inputs else "x"

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.attention_block.kernel import attention_block_kernel
        from img_deploy.kernels.launch import padded

        dim = sizes["norm_x_weight"][0]
        constants = {
            "DIM": dim,
            "HEADS": heads,
            "HEADS_PAD": 1 << (heads - 1).bit_length(),
            "HEAD_PAD": padded(dim // heads),
        }
        absent = {f"{each}_ptr": None for each in _ALL if each not in inputs}
        return for_crowds(attention_block_kernel, {**constants, **absent})

    def reference(tensors: "list[Tensor]") -> "tuple[Tensor, ...]":
        given = dict(zip(inputs, tensors, strict=True))
        return reference_of("attention_block", heads)([given.get(each) for each in _ALL])  # type: ignore[misc]

    return over_rows("attention_block", inputs, variants, reference, extras=lambda dims: (dims["x"][1], dims[keys][1]))
