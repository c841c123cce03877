"""TensorRT plugin of span decoding."""

from img_deploy.kernels.plugin_form import Output, PluginForm, Sizes, Variant, number_of, reference_of
from img_deploy.kernels.plugin_names import PluginName


def plugin_form(name: PluginName) -> PluginForm:
    k = number_of(name, "spans")

    def variants(sizes: Sizes) -> tuple[Variant, ...]:
        from img_deploy.kernels.best_spans.kernel import best_spans_kernel

        block = max(16, 1 << (sizes["start"][1] - 1).bit_length())
        return (Variant(best_spans_kernel, "rows", {"K": k, "BLOCK_L": block}),)

    return PluginForm(
        op="best_spans",
        inputs=("start", "end", "mask"),
        outputs=lambda dims: (Output((dims["start"][0], k, 2), "i64"), Output((dims["start"][0], k), "fp32")),
        extras=lambda dims: (dims["start"][1],),
        grid=lambda dims, _blocks: (dims["start"][0],),
        variants=variants,
        reference=reference_of("best_spans", k),
    )
