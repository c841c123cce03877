"""ONNX form and TensorRT plugins: attention to itself, to words, and to slots, which are never masked.

The ONNX body spells out the heads, so their number is part of the name.
"""

from typing import TYPE_CHECKING, Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, layer_norm, linear, masked_softmax
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


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body; the scale of the scores is part of the query's weights."""
    dim = call.size("qkv_weight", 1)
    head = dim // given.heads
    normed = source = layer_norm(op, given.x, given.norm_x_weight, given.norm_x_bias)
    if given.context is not None:
        source = layer_norm(op, given.context, given.norm_context_weight, given.norm_context_bias)
    scale = op.to_storage(op.floats(head**-0.5))

    def projected(values: Any, part: int) -> Any:
        weight, bias = op.cut(given.qkv_weight, part, dim), op.cut(given.qkv_bias, part, dim)
        if part == 0:
            weight, bias = op.Mul(weight, scale), op.Mul(bias, scale)
        flat = linear(op, values, weight, bias)
        return op.Transpose(op.Reshape(flat, [0, 0, given.heads, head]), perm=[0, 2, 1, 3])  # [B, H, *, D/H]

    q, k, v = (projected(values, part) for part, values in enumerate((normed, source, source)))
    scores = op.to_wide(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])))  # [B, H, L, M]
    attended = op.MatMul(masked_softmax(op, scores, given.context_mask, (1, 2)), v)
    attended = op.Reshape(op.Transpose(attended, perm=[0, 2, 1, 3]), [0, 0, dim])  # [B, L, D]
    residual = op.Add(attended, given.x)
    hidden = layer_norm(op, residual, given.norm_out_weight, given.norm_out_bias)
    return op.Add(linear(op, hidden, given.out_weight, given.out_bias), residual)


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
