"""Names of element types in each library, and the value of a masked logit. Imports nothing."""

from typing import NamedTuple

MASKED = -1e30
"""Added to a masked logit (float32): finite, so a row with nothing left gives a uniform softmax and no NaN."""


class ElementType(NamedTuple):
    """What each library calls one type."""

    name: str
    """Ours; of floating point types also the name of a precision."""
    torch: str
    """Attribute of ``torch``; NumPy's name too, where NumPy has the type."""
    onnx: str
    """Member of ``onnx.TensorProto.DataType``."""
    onnxruntime: str
    tensorrt: str
    """Member of ``tensorrt.DataType``."""
    triton: str
    """In a signature."""


ELEMENT_TYPES = {
    kind.name: kind
    for kind in (
        ElementType("fp32", "float32", "FLOAT", "tensor(float)", "FLOAT", "fp32"),
        ElementType("fp16", "float16", "FLOAT16", "tensor(float16)", "HALF", "fp16"),
        ElementType("bf16", "bfloat16", "BFLOAT16", "tensor(bfloat16)", "BF16", "bf16"),
        ElementType("bool", "bool", "BOOL", "tensor(bool)", "BOOL", "i1"),
        ElementType("int32", "int32", "INT32", "tensor(int32)", "INT32", "i32"),
        ElementType("int64", "int64", "INT64", "tensor(int64)", "INT64", "i64"),
    )
}
PRECISIONS = ("fp32", "fp16", "bf16")
"""What weights and activations may be stored in."""


def named(library: str, name: str) -> ElementType:
    """The type that a library calls ``name``.

    >>> named("tensorrt", "HALF").torch
    'float16'

    Raises KeyError where it has no such type here.
    """
    for kind in ELEMENT_TYPES.values():
        if getattr(kind, library) == name:
            return kind
    raise KeyError(f"{library} type {name}")
