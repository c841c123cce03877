"""TensorRT plugin of slot attention."""

from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, ceil_div, number_of, reference_of
from img_deploy.kernels.plugin_names import PluginName


def plugin_form(name: PluginName) -> PluginForm:
    iterations = number_of(name, "iterations")

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.slot_attention.kernel import LARGEST_DIM
        from img_deploy.kernels.slot_attention.one_slot import slot_attention_one_slot
        from img_deploy.kernels.slot_attention.rows import slot_attention_rows

        dim = sizes["slots"][3]
        if dim > LARGEST_DIM:
            return ()
        constants = {"D": dim, "BLOCK_D": max(16, 1 << (dim - 1).bit_length()), "ITERATIONS": iterations}
        return (
            Variant(slot_attention_rows, "rows", constants, dtypes=("fp16", "bf16")),
            Variant(slot_attention_one_slot, "one_slot", constants),
        )

    return PluginForm(
        op="slot_attention",
        inputs=(
            *("visual", "audio", "mask", "slots", "norm_input_weight", "norm_input_bias"),
            *("norm_slots_weight", "norm_slots_bias", "norm_mlp_weight", "norm_mlp_bias", "qkv_weight", "qkv_bias"),
            *("gru_weight_ih", "gru_weight_hh", "gru_bias_ih", "gru_bias_hh", "mlp_weight", "mlp_bias"),
        ),
        outputs=lambda dims: (Output(tuple(dims["slots"]), "visual"),),
        extras=lambda dims: (dims["visual"][0], dims["visual"][1], dims["slots"][2]),
        grid=lambda dims, blocks: (dims["visual"][0], 2, ceil_div(dims["slots"][2], blocks.get("ROWS", 1))),
        variants=variants,
        reference=reference_of("slot_attention", iterations),
    )
