"""ONNX form and TensorRT plugin."""

from collections.abc import Sequence
from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, attention_pool, linear, masked_softmax, restored, shrunk, swap
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName
from img_deploy.kernels.query_attention.reference import SAFE_IN_FP16


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


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body. Two linear layers in a row are one, whose weight is the product of theirs. Its part for c2q, the
    words in the proportions of ``over_words``, projects the words instead, of which there are fewer than clips; what
    is the same for every clip (the pooled query, the bias) is added there: the proportions of a clip sum to 1.
    """
    clips, words, dim = given.clips, given.words, call.size("concat_weight", 0)
    # clips · (words product_weight + clip_weight) + words · word_weight
    keys = op.Add(op.Mul(words, given.product_weight), given.clip_weight)
    of_word = op.Unsqueeze(op.MatMul(shrunk(op, words), given.word_weight), [1])
    score = restored(op, op.Add(op.MatMul(shrunk(op, clips), swap(op, keys)), of_word))  # [B, L, N]
    over_words = masked_softmax(op, score, given.word_mask, (1,), axis=2)
    over_clips = masked_softmax(op, score, given.clip_mask, (2,), axis=1)
    c2q = op.MatMul(over_words, words)  # [B, L, D]
    q2c = op.MatMul(over_words, op.MatMul(swap(op, over_clips), clips))
    pooled = attention_pool(op, words, given.pool_weight, given.word_mask)  # [B, 1, D]
    of_clips, of_pooled = (op.cut(given.concat_weight, half, dim, axis=1) for half in range(2))
    weight, bias = op.to_wide(of_clips), op.to_wide(given.concat_bias)
    joint_weight = op.to_storage(op.MatMul(weight, op.to_wide(given.attention_weight)))
    joint_bias = op.to_storage(op.Add(op.MatMul(weight, op.to_wide(given.attention_bias)), bias))
    own, of_c2q, *products = (op.cut(joint_weight, part, dim, axis=1) for part in range(4))
    projected = op.Add(linear(op, words, of_c2q), linear(op, pooled, of_pooled, joint_bias))  # [B, N, D]
    of_words = op.MatMul(over_words, projected)
    return _projected(op, (clips, c2q, q2c), (own, *products), of_words, dim)


def _projected(op: Nodes, parts: Sequence[Any], weights: Sequence[Any], base: Any, dim: int) -> Any:
    """``Linear([C; C*c2q; C*q2c]) + base``, [B, L, D]."""
    clips, c2q, q2c = parts
    if op.storage != op.half:
        total = op.Reshape(base, [-1, dim])
        for part, weight in zip((clips, op.Mul(clips, c2q), op.Mul(clips, q2c)), weights, strict=True):
            total = op.Gemm(op.Reshape(part, [-1, dim]), weight, total, transB=1)
        return op.Reshape(total, op.Shape(clips))
    # The product of two clips leaves the range of fp16 long before they do: such a row is computed at a smaller scale.
    clips, c2q, q2c = map(op.to_wide, parts)
    features = op.Concat(clips, op.Mul(clips, c2q), op.Mul(clips, q2c), axis=2)  # [B, L, 3D]
    largest = op.ReduceMax(op.Abs(features), [2], keepdims=1)  # [B, L, 1]
    scale = op.Min(op.Div(op.floats(SAFE_IN_FP16), largest), op.floats(1.0))
    out = linear(op, op.to_storage(op.Mul(features, scale)), op.Concat(*weights, axis=1))
    return op.Add(op.to_storage(op.Div(op.to_wide(out), scale)), base)


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("query_attention", lambda sizes: sizes["clip_weight"][0])
    inputs = tensor_names("query_attention")
    return over_rows("query_attention", inputs, variants, extras=lambda dims: (dims["clips"][1], dims["words"][1]))
