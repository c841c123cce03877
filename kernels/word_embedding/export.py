"""ONNX form and TensorRT plugin."""

from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, convolution, linear, swap
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, reference_of
from img_deploy.kernels.plugin_names import PluginName
from img_deploy.kernels.word_embedding.reference import CHAR_WIDTHS, MIN_CHARS


def node_form(_call: Call) -> NodeForm:
    axes = {
        "word_vectors": ("batch", "words", None),
        "word_unknown": ("batch", "words"),
        "char_ids": ("batch", "words", "chars"),
    }
    return NodeForm("ImgWordEmbedding", axes)


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body: each width's windows end at the query's own longest word."""
    unknown = op.Cast(op.Unsqueeze(given.word_unknown, [2]), to=op.storage)
    words = op.Add(given.word_vectors, op.Mul(unknown, given.unknown))
    sizes = op.Shape(given.char_ids)  # B, N, W
    positions = op.Range(op.ints(1), op.Add(op.part(sizes, 2), op.ints(1)), op.ints(1))  # 1..W
    seen = op.Or(op.Not(op.Equal(given.char_ids, op.ints(0))), op.LessOrEqual(positions, op.ints(MIN_CHARS)))
    longest = op.ReduceMax(op.Mul(op.Cast(seen, to=op.long), positions), [1, 2], keepdims=0)  # [B]
    letters = call.size("char_table", 1)
    flat = op.Reshape(
        op.Gather(given.char_table, given.char_ids, axis=0),
        op.Concat([-1], op.Slice(sizes, [2], [3]), [letters], axis=0),
    )
    characters = swap(op, flat)  # [B*N, E, W]
    pooled = []
    for k in CHAR_WIDTHS:
        weight, bias = getattr(given, f"char{k}_weight"), getattr(given, f"char{k}_bias")
        windows = op.Relu(convolution(op, characters, weight, bias, (0, k - 1)))  # [B*N, out, W]
        inside = op.LessOrEqual(positions, op.Unsqueeze(op.Sub(longest, op.ints(k - 1)), [1]))  # [B, W]
        inside = op.Cast(op.Unsqueeze(inside, [1, 2]), to=op.storage)
        shape = op.Concat(op.Slice(sizes, [0], [2]), [call.size(f"char{k}_weight", 0), -1], axis=0)
        windows = op.Mul(op.Reshape(windows, shape), inside)  # [B, N, out, W]; ReLU's output is never below 0
        pooled.append(op.ReduceMax(windows, [3], keepdims=0))
    return linear(op, op.Concat(words, *pooled, axis=-1), given.weight, given.bias)


def plugin_form(_name: PluginName) -> PluginForm:
    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.word_embedding.kernel import constants, word_embedding_kernel

        dim, vector, letters = sizes["bias"][0], sizes["unknown"][0], sizes["char_table"][1]
        return (Variant(word_embedding_kernel, "rows", constants(dim, vector, letters)),)

    return PluginForm(
        op="word_embedding",
        inputs=tensor_names("word_embedding"),
        outputs=lambda dims: (Output((*list(dims["word_unknown"])[:2], dims["bias"][0]), "word_vectors"),),
        extras=lambda dims: (dims["char_ids"][1], dims["char_ids"][2]),
        grid=lambda dims, _blocks: (dims["char_ids"][0], dims["char_ids"][1]),
        variants=variants,
        reference=reference_of("word_embedding"),
    )
