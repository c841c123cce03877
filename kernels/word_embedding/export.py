"""ONNX form and TensorRT plugin."""

from functools import reduce
from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, linear
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, reference_of
from img_deploy.kernels.plugin_names import PluginName
from img_deploy.kernels.word_embedding.reference import CHAR_CHANNELS, CHAR_WIDTHS, MIN_CHARS


def node_form(_call: Call) -> NodeForm:
    axes = {
        "word_vectors": ("batch", "words", None),
        "word_unknown": ("batch", "words"),
        "char_ids": ("batch", "words", "chars"),
    }
    return NodeForm("ImgWordEmbedding", axes)


def body(op: Nodes, _call: Call, given: Any) -> Any:
    """The ONNX body. Letters are few: what each adds to a convolution at each of its taps is a row of a table, and a
    window is the sum of as many rows. Each width's windows end at the query's own longest word.
    """
    unknown = op.Cast(op.Unsqueeze(given.word_unknown, [2]), to=op.storage)
    words = op.Add(given.word_vectors, op.Mul(unknown, given.unknown))
    width = op.Shape(given.char_ids, start=2, end=3)
    positions = op.Range(op.ints(1), op.Add(op.Squeeze(width, [0]), op.ints(1)), op.ints(1))  # 1..W
    seen = op.Or(op.Not(op.Equal(given.char_ids, op.ints(0))), op.LessOrEqual(positions, op.ints(MIN_CHARS)))
    longest = op.ReduceMax(op.Mul(op.Cast(seen, to=op.long), positions), [1, 2], keepdims=1)  # [B, 1, 1]
    # Windows that run past the last character are not inside; whatever follows it here goes unseen.
    turned = op.Concat(given.char_ids, op.Slice(given.char_ids, [0], [MIN_CHARS - 1], [2]), axis=2)  # [B, N, W + 3]
    rows = [
        op.Gather(table, op.Slice(turned, [tap], op.Add(width, op.ints([tap])), [2]), axis=0)
        for tap, table in enumerate(_tables(op, given))
    ]
    windows = op.Relu(reduce(op.Add, rows))  # [B, N, W, all channels]
    taps = op.ints([k - 1 for k, channels in zip(CHAR_WIDTHS, CHAR_CHANNELS, strict=True) for _ in range(channels)])
    inside = op.LessOrEqual(op.Unsqueeze(positions, [1]), op.Sub(longest, taps))  # [B, W, all channels]
    inside = op.Cast(op.Unsqueeze(inside, [1]), to=op.storage)
    pooled = op.ReduceMax(op.Mul(windows, inside), [2], keepdims=0)  # ReLU's output is never below 0
    return linear(op, op.Concat(words, pooled, axis=-1), given.weight, given.bias)


def _tables(op: Nodes, given: Any) -> list[Any]:
    """[characters, all channels] of each tap; the biases are in the first."""
    kernels = [
        op.Pad(op.to_wide(getattr(given, f"char{k}_weight")), [0, 0, 0, 0, 0, MIN_CHARS - k]) for k in CHAR_WIDTHS
    ]
    kernel = op.Transpose(op.Concat(*kernels, axis=0), perm=[2, 1, 0])  # [taps, E, all channels]
    bias = op.Concat(*(op.to_wide(getattr(given, f"char{k}_bias")) for k in CHAR_WIDTHS), axis=0)
    first, *others = (op.MatMul(op.to_wide(given.char_table), op.part(kernel, tap)) for tap in range(MIN_CHARS))
    return [*map(op.to_storage, (op.Add(first, bias), *others))]


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
