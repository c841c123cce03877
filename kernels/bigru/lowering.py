"""ONNX: one function per number of stacks, whose body holds a standard ``GRU`` node for each.

The reference is a loop over time, which does not export: the body is written here.
"""

from typing import Any

from img_deploy.kernels.lowering import Call, NodeForm
from img_deploy.kernels.plugin_names import GRU_NODE

R_Z_N_TO_Z_R_N = (1, 0, 2)
"""Gate order of PyTorch to that of ONNX."""
FLOAT = 1
"""ONNX's number for float32."""


def node_form(call: Call) -> NodeForm:
    axes = {
        "x": (None, "batch", "length", "width"),
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
        own = op.Gather(x, op.Constant(value_int=stack), axis=0)  # [B, L, I]
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
    first = op.Constant(value_ints=[0])
    return op.Concat(*(op.Unsqueeze(output, first) for output in outputs), axis=0)
