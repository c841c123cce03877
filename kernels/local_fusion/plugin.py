"""TensorRT plugin of local fusion."""

from img_deploy.kernels.plugin_form import PluginForm, over_padded_rows, over_rows
from img_deploy.kernels.plugin_names import PluginName

INPUTS = (
    *("visual", "audio", "importance", "mask", "conv1_weight", "conv3_weight", "conv5_weight"),
    *("conv_bias", "proj_weight", "proj_bias", "norm_weight", "norm_bias"),
)


def plugin_form(_name: PluginName) -> PluginForm:
    variants = over_padded_rows("local_fusion", lambda sizes: sizes["norm_weight"][1])
    return over_rows("local_fusion", INPUTS, variants)
