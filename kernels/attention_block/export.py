"""ONNX form and TensorRT plugins: attention to itself, to words, and to slots, which are never masked.

The ONNX body spells out the heads, so their number is part of the name.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.kernels.dtypes import MASKED
from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, layer_norm, linear, masked_softmax, swap
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
    scale = op.to_storage(op.floats((dim // given.heads) ** -0.5))
    (q_weight, q_bias), k, v = (
        (op.cut(given.qkv_weight, part, dim), op.cut(given.qkv_bias, part, dim)) for part in range(3)
    )
    q = op.Mul(q_weight, scale), op.Mul(q_bias, scale)
    normed = source = layer_norm(op, given.x, given.norm_x_weight, given.norm_x_bias)
    if given.context is not None:
        source = layer_norm(op, given.context, given.norm_context_weight, given.norm_context_bias)
    to_slots = given.context is not None and given.context_mask is None
    attended = (_to_slots if to_slots else _to_words_or_clips)(op, (normed, source, source), (q, k, v), dim, given)
    residual = op.Add(_rows(op, attended, dim), _rows(op, given.x, dim))
    hidden = layer_norm(op, residual, given.norm_out_weight, given.norm_out_bias)
    out = op.Add(linear(op, hidden, given.out_weight, given.out_bias), residual)
    return op.Reshape(out, op.Shape(given.x))


def _to_words_or_clips(op: Nodes, inputs: Any, weights: Any, dim: int, given: Any) -> Any:
    """Attention before the residual, [B, L, D]: ``inputs`` and ``weights`` of q, k and v."""

    def projected(values: Any, flat: Any) -> Any:
        heads = op.Concat(op.Shape(values, start=0, end=2), [given.heads, -1], axis=0)
        return op.Transpose(op.Reshape(flat, heads), perm=[0, 2, 1, 3])  # [B, H, *, D/H]

    flat = [_rows(op, values, dim) for values in inputs]
    mask = given.context_mask
    if op.storage == op.wide:
        queries, keys = _with_mask(op, flat, weights, dim, given)
        mask = None
    else:
        queries, keys = (linear(op, values, *own) for values, own in zip(flat[:2], weights[:2], strict=True))
    q, k, v = map(projected, inputs, (queries, keys, linear(op, flat[2], *weights[2])))
    scores = op.to_wide(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])))  # [B, H, L, M]
    attended = op.MatMul(masked_softmax(op, scores, mask, (1, 2)), v)
    return op.Transpose(attended, perm=[0, 2, 1, 3])


def _with_mask(op: Nodes, rows: Any, weights: Any, dim: int, given: Any) -> tuple[Any, Any]:
    """Queries [B * L, H * (D/H + 1)] and keys: each head has a channel more, 1 in a query, the mask's shift in a key.

    So the product holds the shift, which is not added to all scores of all heads. Half precision has no number for it.
    The keys' bias is left out: it adds the same to all scores of a query.
    """
    size = dim // given.heads

    def widened(values: Any, *others: int) -> Any:
        by_head = op.Reshape(values, [given.heads, size, *others])
        last = [0, 1, *(0 for _ in others)]
        return op.Reshape(op.Pad(by_head, [0] * len(last) + last), [-1, *others])

    (q_weight, q_bias), (k_weight, _), _ = weights
    last = op.constant(np.tile(np.eye(size + 1, dtype=np.float32)[-1], given.heads))
    queries = linear(op, rows[0], widened(q_weight, dim), op.Add(widened(q_bias), last))
    shift = op.Where(given.context_mask, op.floats(0.0), op.floats(MASKED))
    shifts = op.Mul(op.Reshape(shift, [-1, 1]), last)
    return queries, op.Gemm(rows[1], widened(k_weight, dim), shifts, transB=1)


def _to_slots(op: Nodes, inputs: Any, weights: Any, dim: int, given: Any) -> Any:
    """The same to few keys: they are projected to the clips, not the clips to them, and no head is cut out. Each head
    has keys and values of its own, [B, H * M, D], zero in the channels of the other heads.
    """
    x, slots, _ = inputs
    (q_weight, q_bias), *k_and_v = weights
    channels = np.repeat(np.eye(given.heads, dtype=np.float32), dim // given.heads, axis=1)[:, None]  # [H, 1, D]
    own = op.to_storage(op.constant(channels))
    keys, values = (
        op.Reshape(op.Mul(op.Unsqueeze(linear(op, slots, *each), [1]), own), [0, -1, dim]) for each in k_and_v
    )
    of_bias = swap(op, op.MatMul(keys, op.Unsqueeze(q_bias, [1])))  # [B, 1, H * M]
    scores = op.Add(op.MatMul(x, swap(op, op.MatMul(keys, q_weight))), of_bias)  # [B, L, H * M]
    by_head = op.Concat(op.Shape(x, start=0, end=2), [given.heads, -1], axis=0)
    shares = masked_softmax(op, op.to_wide(op.Reshape(scores, by_head)))
    return op.MatMul(op.Reshape(shares, [0, 0, -1]), values)


def _rows(op: Nodes, x: Any, dim: int) -> Any:
    """[B, L, D] -> [B * L, D], of which ONNX Runtime computes product and bias in one."""
    return op.Reshape(x, [-1, dim])


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
