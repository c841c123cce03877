"""A layer of GRUs as one loop over chunks of steps, in standard ops: what TensorRT compiles best without our kernels.

TensorRT runs each ONNX ``GRU`` node as a loop of its own, about 15 kernels for every step. Here all stacks and both
directions go through one loop, whose body holds :data:`CHUNK` steps; a step compiles to one kernel.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHUNK = 8
"""Steps per turn of the loop: 16 compile to twice as much for 5% fewer launches."""


class Nodes:
    """Nodes of one graph in the making. ``constants`` go to the model's initializers."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; gives the name of its output, or of each."""
        name = f"{self.prefix}/{op}_{len(self.nodes)}"
        names = [f"{name}:{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, values: Sequence[int] | int) -> str:
        """An int64 constant."""
        name = f"{self.prefix}/constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name


def gru_loop(node: onnx.NodeProto, storage: int, stacks: int, hidden: int) -> Nodes:
    """The nodes that take the place of a layer.

    Args:
        node: x [B, L, S, I], lengths [B] int32, weight_ih [S, 2, 3H, I], weight_hh [S, 2, 3H, H], bias_ih and bias_hh
            [S, 2, 3H] -> y [B, L, S, 2H], zero beyond each length; gates in the order r, z, n.
        storage: element type of all but ``lengths``. States are float32; products take and give ``storage``.
        stacks: S.
        hidden: H.
    """
    x, lengths, weight_ih, weight_hh, bias_ih, bias_hh = node.input
    op = Nodes(node.name or node.output[0])
    one, zero, sides, rows = op.constant([1]), op.constant([0]), 2 * stacks, 3 * hidden
    batch, length = (op("Slice", op("Shape", x), op.constant([at]), op.constant([at + 1])) for at in (0, 1))
    lengths = op("Cast", lengths, to=TensorProto.INT64)

    tall = op("Reshape", weight_ih, op.constant([stacks, 1, 2 * rows, -1]))
    stacked = op("Transpose", x, perm=[2, 0, 1, 3])  # [S, B, L, I]
    product = op("MatMul", stacked, op("Transpose", tall, perm=[0, 1, 3, 2]))
    gates = op("Add", product, op("Reshape", bias_ih, op.constant([stacks, 1, 1, 2 * rows])))  # [S, B, L, 6H]
    forward, backward = (
        op("Transpose", half, perm=[2, 1, 0, 3]) for half in op("Split", gates, outputs=2, axis=3, num_outputs=2)
    )  # [L, B, S, 3H]
    backward = op("ReverseSequence", backward, lengths, batch_axis=1, time_axis=0)
    both = op("Transpose", op("Concat", forward, backward, axis=2), perm=[0, 2, 1, 3])  # [L, 2S, B, 3H]
    missing = op("Mod", op("Neg", length), op.constant([CHUNK]))
    pads = op("Concat", op.constant([0, 0, 0, 0]), missing, op.constant([0, 0, 0]), axis=0)
    turns = op("Concat", op.constant([-1, CHUNK, sides]), batch, op.constant([rows]), axis=0)
    chunks = op("Reshape", op("Pad", both, pads), turns)  # [turns, C, 2S, B, 3H]

    weight = op("Reshape", op("Transpose", weight_hh, perm=[1, 0, 3, 2]), op.constant([sides, hidden, rows]))
    bias = op("Reshape", op("Transpose", bias_hh, perm=[1, 0, 2]), op.constant([sides, 1, rows]))
    bias = op("Cast", bias, to=TensorProto.FLOAT)
    none = numpy_helper.from_array(np.zeros(1, np.float32))
    shape = op("Concat", op.constant([sides]), batch, op.constant([hidden]), axis=0)
    start = op("ConstantOfShape", shape, value=none)
    body = _body(f"{op.prefix}/body", (weight, bias, zero), storage, sides, hidden)
    _, states = op("Scan", start, chunks, outputs=2, body=body, num_scan_inputs=1)  # [turns, C, 2S, B, H]
    flat = op("Concat", op.constant([-1, sides]), batch, op.constant([hidden]), axis=0)
    states = op("Slice", op("Reshape", states, flat), zero, length, zero)  # [L, 2S, B, H]

    forward, backward = op("Split", op("Transpose", states, perm=[0, 2, 1, 3]), outputs=2, axis=2, num_outputs=2)
    backward = op("ReverseSequence", backward, lengths, batch_axis=1, time_axis=0)
    y = op("Transpose", op("Concat", forward, backward, axis=3), perm=[1, 0, 2, 3])  # [B, L, S, 2H]
    steps = op("Range", op.constant(0), op("Squeeze", length), op.constant(1))
    real = op("Less", op("Unsqueeze", steps, zero), op("Unsqueeze", lengths, one))  # [B, L]
    nothing = op("Cast", zero, to=TensorProto.FLOAT)
    y = op("Where", op("Unsqueeze", real, op.constant([2, 3])), y, nothing)
    op.nodes.append(helper.make_node("Cast", [y], list(node.output), f"{op.prefix}/out", to=storage))
    return op


def _body(prefix: str, outer: tuple[str, str, str], storage: int, sides: int, hidden: int) -> onnx.GraphProto:
    """One turn: from the states [2S, B, H] and the gates [C, 2S, B, 3H] of its steps to its states."""
    weight, bias, zero = outer
    op = Nodes(prefix)
    state, gates = f"{prefix}/state", f"{prefix}/gates"
    current, states = state, []
    for step in op("Split", gates, outputs=CHUNK, axis=0, num_outputs=CHUNK):
        given = op("Cast", op("Squeeze", step, zero), to=TensorProto.FLOAT)
        product = op("MatMul", op("Cast", current, to=storage), weight)
        own = op("Add", op("Cast", product, to=TensorProto.FLOAT), bias)
        given_r, given_z, given_n = op("Split", given, outputs=3, axis=-1, num_outputs=3)
        own_r, own_z, own_n = op("Split", own, outputs=3, axis=-1, num_outputs=3)
        reset, keep = op("Sigmoid", op("Add", given_r, own_r)), op("Sigmoid", op("Add", given_z, own_z))
        new = op("Tanh", op("Add", given_n, op("Mul", reset, own_n)))
        current = op("Add", new, op("Mul", keep, op("Sub", current, new)))
        states.append(op("Unsqueeze", current, zero))
    last, all_states = op("Identity", current), op("Concat", *states, axis=0)

    def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, list(shape))

    inputs = [
        value(state, TensorProto.FLOAT, sides, "batch", hidden),
        value(gates, storage, CHUNK, sides, "batch", 3 * hidden),
    ]
    outputs = [
        value(last, TensorProto.FLOAT, sides, "batch", hidden),
        value(all_states, TensorProto.FLOAT, CHUNK, sides, "batch", hidden),
    ]
    return helper.make_graph(op.nodes, prefix, inputs, outputs)
