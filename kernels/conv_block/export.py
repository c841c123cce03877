"""ONNX form and TensorRT plugin: one per number of layers, which the ONNX body spells out."""

from dataclasses import replace
from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes, columns, depthwise, layer_norm, linear, rows
from img_deploy.kernels.op import tensor_names
from img_deploy.kernels.plugin_form import Blocks, Dims, PluginForm, Sizes, Variant, by_batch, ceil_div, over_rows
from img_deploy.kernels.plugin_names import PluginName


def node_form(call: Call) -> NodeForm:
    layers = call.size("norm_weight", 0)
    return NodeForm(f"ImgConvBlock{layers}", {"x": ("batch", "length", None), "mask": ("batch", "length")})


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body."""
    layers, dim, taps = (call.size("depthwise_weight", axis) for axis in range(3))
    keep, position = op.Cast(op.Unsqueeze(given.mask, [2]), to=op.storage), given.position
    if call.size("position", 0) > 1:
        position = op.Slice(position, [0], op.Shape(given.x, start=1, end=2), [0])
    x = op.Add(given.x, position)
    for layer in range(layers):
        own = op.at(given, layer)
        normed = op.Mul(layer_norm(op, x, own("norm_weight"), own("norm_bias")), keep)
        mixed = depthwise(op, columns(op, normed), own("depthwise_weight"), None, dim, taps)
        hidden = op.Relu(linear(op, rows(op, mixed, dim), own("pointwise_weight"), own("pointwise_bias")))
        x = op.Add(x, op.Reshape(hidden, op.Shape(given.x)))
    return x


def plugin_form(_name: PluginName) -> PluginForm:
    def numbers(dims: Dims) -> tuple[Any, ...]:
        return dims["x"][1], dims["position"][0]

    return replace(over_rows("conv_block", tensor_names("conv_block"), _variants, extras=numbers), grid=_grid)


def _variants(sizes: Sizes) -> tuple[Variant, ...]:
    from img_deploy.kernels.conv_block.kernel import constants, conv_block_kernel
    from img_deploy.kernels.launch import padded

    layers, _, taps = sizes["depthwise_weight"]
    # A block has to hold clips of its own beside the neighbours that all layers together reach.
    least = padded(2 * layers * (taps // 2) + 1)
    return by_batch(conv_block_kernel, constants(*sizes["depthwise_weight"]), ROWS=least)


def _grid(dims: Dims, blocks: Blocks) -> tuple[Any, ...]:
    layers, _, taps = (_number(size) for size in dims["depthwise_weight"])
    # A video that fits one block gets more of them here; those find no clips to write.
    return dims["x"][0], ceil_div(dims["x"][1], blocks["ROWS"] - 2 * layers * (taps // 2))


def _number(size: Any) -> int:
    """A size of a weight: constant in an engine, even where it comes as an expression."""
    number: int = size if isinstance(size, int) else size.constant_value()
    return number
