"""TensorRT plugin of global fusion."""

from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName

INPUTS = (
    *("visual", "audio", "importance", "mask", "pool_weight"),
    *("proj_weight", "proj_bias", "norm_weight", "norm_bias"),
)


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("global_fusion", lambda sizes: sizes["norm_weight"][1])
    return over_rows("global_fusion", INPUTS, variants)
