"""ONNX form: one function per number of stacks, whose body holds a standard ``GRU`` node for each (the reference is a
loop over time, which does not export). TensorRT plugin: the loop over time; the input's part of the gates is a matrix
product of the engine.
"""

from typing import TYPE_CHECKING, Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.onnx_nodes import Nodes
from img_deploy.kernels.plugin_form import Blocks, Dims, Output, PluginForm, Sizes, Variant, ceil_div
from img_deploy.kernels.plugin_names import GRU_NODE, PluginName

if TYPE_CHECKING:
    from torch import Tensor

R_Z_N_TO_Z_R_N = (1, 0, 2)
"""Gate order of PyTorch to that of ONNX."""


def node_form(call: Call) -> NodeForm:
    axes = {
        "x": ("batch", "length", None, "width"),
        "lengths": ("batch",),
        "weight_ih": (None, None, None, "width"),
    }
    return NodeForm(f"{GRU_NODE}{call.size('weight_hh', 0)}", axes)


def body(op: Nodes, call: Call, given: Any) -> Any:
    """The ONNX body. The recurrence is float32 whatever the storage, as in the reference."""
    stacks, hidden = call.size("weight_hh", 0), call.size("weight_hh", 3)
    rows = op.ints([gate * hidden + row for gate in R_Z_N_TO_Z_R_N for row in range(hidden)])
    # Time first, as GRU nodes take and give it: between two layers the transpositions cancel and nothing is stacked.
    x = op.Transpose(given.x, perm=[2, 1, 0, 3])  # [S, L, B, I]
    outputs = []
    for stack in range(stacks):
        own = op.at(given, stack)
        w_ih, w_hh, b_ih, b_hh = (
            op.to_wide(op.Gather(own(name), rows, axis=1)) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        y, _ = op.GRU(
            op.to_wide(op.part(x, stack) if stacks > 1 else op.Squeeze(x, [0])),
            w_ih,
            w_hh,
            op.Concat(b_ih, b_hh, axis=1),
            given.lengths,
            direction="bidirectional",
            hidden_size=hidden,
            linear_before_reset=1,
            outputs=2,
        )  # [L, 2, B, H]
        both = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), [0, 0, 2 * hidden])
        outputs.append(op.Unsqueeze(op.to_storage(both), [0]))  # [1, L, B, 2H]
    return op.Transpose(op.Concat(*outputs, axis=0) if stacks > 1 else outputs[0], perm=[2, 1, 0, 3])


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
        Variant(kernel.gru_one_row, f"one_row_{fixed['BLOCK_H']}", fixed, dtypes=("fp32",)),
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
