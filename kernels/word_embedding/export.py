"""ONNX form and TensorRT plugin."""

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, ceil_div, reference_of
from img_deploy.kernels.plugin_names import PluginName


def node_form(_call: Call) -> NodeForm:
    axes = {
        "word_vectors": ("batch", "words", None),
        "word_unknown": ("batch", "words"),
        "char_ids": ("batch", "words", "chars"),
    }
    return NodeForm("ImgWordEmbedding", axes)


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
        grid=lambda dims, blocks: (dims["char_ids"][0], ceil_div(dims["char_ids"][1], blocks["ROWS"])),
        variants=variants,
        reference=reference_of("word_embedding"),
    )
