"""ONNX form and TensorRT plugin: one per number of iterations, which the ONNX body spells out."""

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, ceil_div, number_of, reference_of
from img_deploy.kernels.plugin_names import PluginName

CLIPS = ("batch", "length", None)


def node_form(call: Call) -> NodeForm:
    axes = {"visual": CLIPS, "audio": CLIPS, "mask": ("batch", "length"), "slots": (None, "batch", None, None)}
    return NodeForm(f"ImgSlotAttention{call.values['iterations']}", axes)


def plugin_form(name: PluginName) -> PluginForm:
    iterations = number_of(name, "iterations")

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.slot_attention import kernel

        dim = sizes["slots"][3]
        if dim > kernel.LARGEST_DIM:
            return ()
        fixed = kernel.constants(dim, iterations)
        return (
            Variant(kernel.slot_attention_rows, "rows", fixed, dtypes=("fp16", "bf16")),
            Variant(kernel.slot_attention_one_slot, "one_slot", fixed),
        )

    return PluginForm(
        op="slot_attention",
        inputs=tensor_names("slot_attention"),
        outputs=lambda dims: (Output(tuple(dims["slots"]), "visual"),),
        extras=lambda dims: (dims["visual"][0], dims["visual"][1], dims["slots"][2]),
        grid=lambda dims, blocks: (dims["visual"][0], 2, ceil_div(dims["slots"][2], blocks.get("ROWS", 1))),
        variants=variants,
        reference=reference_of("slot_attention", iterations),
    )
