"""TensorRT plugin of the stack of separable convolutions."""

from dataclasses import replace
from typing import Any

from img_deploy.kernels.plugin_form import Blocks, Dims, PluginForm, Sizes, Variant, ceil_div, for_crowds, over_rows
from img_deploy.kernels.plugin_names import PluginName

INPUTS = (
    *("x", "mask", "norm_weight", "norm_bias"),
    *("depthwise_weight", "pointwise_weight", "pointwise_bias"),
)


def plugin_form(_name: PluginName) -> PluginForm:
    return replace(over_rows("conv_block", INPUTS, _variants), grid=_grid)


def _variants(sizes: Sizes) -> tuple[Variant, ...]:
    from img_deploy.kernels.conv_block.kernel import conv_block_kernel
    from img_deploy.kernels.launch import padded

    layers, dim, taps = sizes["depthwise_weight"]
    constants = {"DIM": dim, "WIDTH": padded(dim), "LAYERS": layers, "TAPS": taps}
    # A block has to hold clips of its own beside the neighbours that all layers together reach.
    return for_crowds(conv_block_kernel, constants, ROWS=padded(2 * layers * (taps // 2) + 1))


def _grid(dims: Dims, blocks: Blocks) -> tuple[Any, ...]:
    layers, _, taps = (_number(size) for size in dims["depthwise_weight"])
    # A video that fits one block gets more of them here; those find no clips to write.
    return dims["x"][0], ceil_div(dims["x"][1], blocks["ROWS"] - 2 * layers * (taps // 2))


def _number(size: Any) -> int:
    """A size of a weight: constant in an engine, even where it comes as an expression."""
    number: int = size if isinstance(size, int) else size.constant_value()
    return number
