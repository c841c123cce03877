"""TensorRT plugin of context-query attention."""

from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName

INPUTS = (
    *("clips", "words", "clip_mask", "word_mask", "clip_weight", "word_weight", "product_weight"),
    *("attention_weight", "attention_bias", "pool_weight", "concat_weight", "concat_bias"),
)


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("query_attention", lambda sizes: sizes["clip_weight"][0])
    return over_rows("query_attention", INPUTS, variants, extras=lambda dims: (dims["clips"][1], dims["words"][1]))
