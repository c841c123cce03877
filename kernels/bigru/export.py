"""ONNX form: one function per number of stacks, whose body holds a standard ``GRU`` node for each (the reference is a
loop over time, which does not export). TensorRT plugin: the loop over time; the input's part of the gates is a matrix
product of the engine.
"""

from typing import TYPE_CHECKING, Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.plugin_form import Blocks, Dims, Output, PluginForm, Sizes, Variant, ceil_div
from img_deploy.kernels.plugin_names import GRU_NODE, PluginName

if TYPE_CHECKING:
    from torch import Tensor

R_Z_N_TO_Z_R_N = (1, 0, 2)
"""Gate order of PyTorch to that of ONNX."""
FLOAT = 1
"""ONNX's number for float32."""


def node_form(call: Call) -> NodeForm:
    axes = {
        "x": ("batch", "length", None, "width"),
        "lengths": ("batch",),
        "weight_ih": (None, None, None, "width"),
    }
    return NodeForm(f"{GRU_NODE}{call.size('weight_hh', 0)}", axes)


def body(x: Any, lengths: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any) -> Any:
    """The function's nodes, made inside the exporter; arguments are values of the graph.

    The recurrence is float32 whatever the storage, as in the reference.
    """
    from onnxscript import opset18

    op: Any = opset18
    stacks, hidden = weight_hh.shape[0], weight_hh.shape[3]
    order = [gate * hidden + row for gate in R_Z_N_TO_Z_R_N for row in range(hidden)]
    rows = op.Constant(value_ints=order)

    def weights(values: Any, stack: int) -> Any:
        own = op.Gather(values, op.Constant(value_int=stack), axis=0)
        return to_float(op.Gather(own, rows, axis=1))  # [2, 3H, *]

    storage = weight_hh.dtype

    def to_float(value: Any) -> Any:
        return value if storage == FLOAT else op.Cast(value, to=FLOAT)

    outputs = []
    for stack in range(stacks):
        own = op.Gather(x, op.Constant(value_int=stack), axis=2)  # [B, L, I]
        bias = op.Concat(weights(bias_ih, stack), weights(bias_hh, stack), axis=1)  # [2, 6H]
        y, _ = op.GRU(
            to_float(op.Transpose(own, perm=[1, 0, 2])),
            weights(weight_ih, stack),
            weights(weight_hh, stack),
            bias,
            lengths,
            direction="bidirectional",
            hidden_size=hidden,
            linear_before_reset=1,
        )  # [L, 2, B, H]
        both = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, 2 * hidden]))
        both = op.Transpose(both, perm=[1, 0, 2])  # [B, L, 2H]
        outputs.append(both if storage == FLOAT else op.Cast(both, to=storage))
    third = op.Constant(value_ints=[2])
    return op.Concat(*(op.Unsqueeze(output, third) for output in outputs), axis=2)


def plugin_form(_name: PluginName) -> PluginForm:
    return PluginForm(
        op="bigru",
        inputs=("gates", "lengths", "weight_hh", "bias_ih", "bias_hh"),
        outputs=_outputs,
        extras=lambda dims: (dims["gates"][1], dims["gates"][2]),
        grid=_grid,
        variants=_variants,
        reference=_reference,
    )


def _grid(dims: Dims, blocks: Blocks) -> tuple[object, ...]:
    return ceil_div(dims["gates"][1], blocks.get("BLOCK_B", 1)), dims["weight_hh"][0] * 2


def _outputs(dims: Dims) -> tuple[Output, ...]:
    stacks, batch, length = list(dims["gates"])[:3]
    return (Output((batch, length, stacks, dims["weight_hh"][3] * 2), "gates"),)


def _variants(sizes: Sizes) -> tuple[Variant, ...]:
    from img_deploy.kernels.bigru import kernel

    hidden = sizes["weight_hh"][3]
    if hidden > kernel.LARGEST_HIDDEN:
        return ()
    fixed = kernel.constants(hidden)
    return (
        Variant(kernel.gru_one_row, f"one_row_{fixed['BLOCK_H']}", fixed),
        Variant(kernel.gru_batch_tile, f"batch_tile_{fixed['BLOCK_H']}", fixed, dtypes=("fp16", "bf16")),
    )


def _reference(tensors: "list[Tensor]") -> "tuple[Tensor, ...]":
    import torch

    from img_deploy.kernels.bigru.reference import bigru

    gates, lengths, weight, bias_ih, bias_hh = tensors
    stacks, rows = weight.shape[0], weight.shape[2]
    gates = gates.flatten(3).permute(1, 2, 0, 3)  # [B, L, S, 6H]
    # With the identity as its input weights, the layer's gates are these.
    identity = torch.eye(2 * rows, dtype=gates.dtype, device=gates.device).view(1, 2, rows, 2 * rows)
    return (bigru(gates, lengths, identity.expand(stacks, -1, -1, -1), weight, bias_ih, bias_hh),)
