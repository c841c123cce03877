"""Writing the ONNX body of an op: nodes, and the functions that several bodies share (see ``functional``).

Statistics, softmax and recurrent states are float32 whatever the storage, as in the references.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.kernels.dtypes import MASKED, named
from img_deploy.kernels.functional import FP16_SCALE, LAYER_NORM_EPS

if TYPE_CHECKING:
    import onnx_ir as ir


class Nodes:
    """Writes nodes of standard ops: ``op.MatMul(a, b)``, attributes by name; lists of ints become constants.

    Args:
        storage: torch's name of the type of weights and activations.
    """

    def __init__(self, storage: str) -> None:
        import onnx_ir as ir

        self.tape = ir.tape.Tape()
        self.storage = ir.DataType[named("torch", storage).onnx]
        self.wide, self.half, self.brain = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16
        self.long, self.double = ir.DataType.INT64, ir.DataType.DOUBLE

    def __getattr__(self, op_type: str) -> Any:
        def node(*inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
            values = [self.ints(each) if isinstance(each, list) else each for each in inputs]
            if outputs == 1:
                return self.tape.op(op_type, values, attributes)
            return self.tape.op_multi_out(op_type, values, attributes, num_outputs=outputs)

        return node

    def ints(self, values: Sequence[int] | int) -> "ir.Value":
        """A constant of int64."""
        return self.constant(np.array(values, np.int64))

    def floats(self, value: float) -> "ir.Value":
        """A constant of float32."""
        return self.constant(np.array(value, np.float32))

    def to_wide(self, x: "ir.Value") -> "ir.Value":
        """A value of the storage type, in float32."""
        return x if self.storage == self.wide else self.tape.op("Cast", [x], {"to": self.wide})

    def to_storage(self, x: "ir.Value") -> "ir.Value":
        """A float32 value, in the storage type."""
        return x if self.storage == self.wide else self.tape.op("Cast", [x], {"to": self.storage})

    def part(self, x: "ir.Value", index: int) -> "ir.Value":
        """``x[index]``, along the first axis."""
        return self.tape.op("Gather", [x, self.ints(index)], {"axis": 0})

    def at(self, given: Any, index: int) -> "Callable[[str], ir.Value]":
        """Function: ``given.<name>[index]``."""
        return lambda name: self.part(getattr(given, name), index)

    def cut(self, x: "ir.Value", index: int, size: int, axis: int = 0) -> "ir.Value":
        """The ``index``-th block of ``size`` along an axis of a weight."""
        ends = [self.ints([end]) for end in (index * size, (index + 1) * size, axis)]
        return self.tape.op("Slice", [x, *ends])

    def split(self, x: "ir.Value", parts: int, axis: int) -> "list[ir.Value]":
        """``x`` cut into equal parts."""
        return list(self.tape.op_multi_out("Split", [x], {"axis": axis, "num_outputs": parts}, num_outputs=parts))

    def constant(self, array: "np.ndarray") -> "ir.Value":
        """A constant of an array."""
        import onnx_ir as ir

        return self.tape.op("Constant", [], {"value": ir.tensor(array)})


def linear(op: Nodes, x: Any, weight: Any, bias: Any = None) -> Any:
    """``x`` [..., K], ``weight`` [N, K], ``bias`` [N] or None -> [..., N]."""
    product = op.MatMul(x, op.Transpose(weight, perm=[1, 0]))
    return product if bias is None else op.Add(product, bias)


def norm(op: Nodes, x: Any, weight: Any, bias: Any, eps: float) -> Any:
    """LayerNorm over the last axis of a float32 value; float32."""
    return op.LayerNormalization(x, op.to_wide(weight), op.to_wide(bias), axis=-1, epsilon=eps)


def layer_norm(op: Nodes, x: Any, weight: Any, bias: Any) -> Any:
    """LayerNorm over the last axis; both ends of the storage type."""
    return op.to_storage(norm(op, op.to_wide(x), weight, bias, LAYER_NORM_EPS))


def shrunk(op: Nodes, x: Any) -> Any:
    """See ``functional.shrunk``."""
    return op.Mul(x, op.to_storage(op.floats(FP16_SCALE))) if op.storage == op.half else x


def restored(op: Nodes, total: Any) -> Any:
    """What was computed of :func:`shrunk` values at its own scale, float32."""
    wide = op.to_wide(total)
    return op.Mul(wide, op.floats(1 / FP16_SCALE)) if op.storage == op.half else wide


def masked_softmax(op: Nodes, scores: Any, mask: Any = None, new_axes: Sequence[int] = (), axis: int = -1) -> Any:
    """Softmax of float32 ``scores`` where ``mask`` (bool; broadcast over ``new_axes``) is True; of the storage type."""
    if mask is not None:
        # Added, not chosen: the same numbers, and ONNX Runtime broadcasts a sum much faster than a Where.
        shift = op.Where(mask, op.floats(0.0), op.floats(MASKED))
        scores = op.Add(scores, op.Unsqueeze(shift, [*new_axes]) if new_axes else shift)
    return op.to_storage(op.Softmax(scores, axis=axis))


def attention_pool(op: Nodes, x: Any, weight: Any, mask: Any) -> Any:
    """``x`` [B, L, D] pooled under softmax(x · weight [D]) over ``mask`` [B, L] -> [B, 1, D]."""
    # A product with a column: ONNX Runtime takes eleven times as long for one with a vector.
    scores = op.Squeeze(op.MatMul(shrunk(op, x), op.Unsqueeze(weight, [1])), [2])
    alpha = masked_softmax(op, restored(op, scores), mask)  # [B, L]
    return op.MatMul(op.Unsqueeze(alpha, [1]), x)


def gate(op: Nodes, visual: Any, audio: Any, given: Any) -> Any:
    """``(1 - p) LN1(visual) + p LN2(audio)``: [B, L, D] twice and p, the ``importance`` [B], in float32."""
    p = op.Unsqueeze(given.importance, [1, 2])
    parts = []
    for m, (share, x) in enumerate(((op.Sub(op.floats(1.0), p), visual), (p, audio))):
        own = op.at(given, m)
        parts.append(op.Mul(share, norm(op, x, own("norm_weight"), own("norm_bias"), LAYER_NORM_EPS)))
    return op.to_storage(op.Add(*parts))


def convolution(op: Nodes, x: Any, weight: Any, bias: Any, pads: Sequence[int], group: int = 1) -> Any:
    """``x`` [B, C, *], ``weight`` [O, C / group, *], ``bias`` [O] or None -> [B, O, *]."""
    narrow = op.storage == op.brain  # no convolution takes bfloat16 at our opset
    given = [each for each in (x, weight, bias) if each is not None]
    out = op.Conv(*(map(op.to_wide, given) if narrow else given), group=group, pads=[*pads])
    return op.to_storage(out) if narrow else out


def columns(op: Nodes, x: Any) -> Any:
    """[B, L, D] -> [B, D, 1, L], as :func:`depthwise` takes it."""
    return op.Transpose(op.Unsqueeze(x, [1]), perm=[0, 3, 1, 2])


def depthwise(op: Nodes, x: Any, weight: Any, bias: Any, channels: int, taps: int) -> Any:
    """Each channel by itself, same padding: ``x`` [B, D, 1, L], ``weight`` [D, K], ``bias`` [D] or None.

    Two axes: ONNX Runtime has fast convolutions, in a layout of its own, for these alone. It enters and leaves that
    layout without copying where :func:`columns` and :func:`rows` stand.
    """
    return convolution(op, x, op.Unsqueeze(weight, [1, 2]), bias, (0, taps // 2, 0, taps // 2), channels)


def rows(op: Nodes, x: Any, channels: int) -> Any:
    """[B, C, 1, L] -> [B * L, C]."""
    return op.Reshape(op.Transpose(x, perm=[0, 2, 3, 1]), [-1, channels])


def swap(op: Nodes, x: Any) -> Any:
    """[B, M, N] -> [B, N, M]."""
    return op.Transpose(x, perm=[0, 2, 1])
