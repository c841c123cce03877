"""The fused ops as local functions of an ONNX model: each body is the op's own reference, exported alone."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from img_deploy.export.exporter import OPSET, onnx_model
from img_deploy.export.graph_passes import (
    constants_as_nodes,
    fix_reshapes,
    forget_types,
    name_nodes,
    optimise,
    strip,
    widen,
)
from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.lowering import DOMAIN, Call, NodeForm, body_translation, node_form

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir
    import torch

    from img_deploy.kernels.op import Op

_TRACED_SIZES = {"batch": 3, "length": 11, "context": 5, "words": 5, "width": 7, "chars": 6}
"""Of the free axes; none is 1, and none of one body alike."""

_TORCH_DTYPES = {
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",
    "BOOL": "bool",
    "INT32": "int32",
    "INT64": "int64",
}


@dataclass(frozen=True)
class Free:
    """An axis that stays free in the body."""

    axis: str


@dataclass(frozen=True)
class TensorArgument:
    """A tensor that an op is given, as far as the op's body depends on it."""

    shape: tuple[int | Free, ...]
    dtype: str


Argument = TensorArgument | int | float | None


@dataclass(frozen=True)
class FunctionKey:
    """What a body depends on; two calls of one node name must agree in it."""

    node: str
    op: str
    arguments: tuple[Argument, ...]


class FunctionLibrary:
    """The functions that the graphs of one network call."""

    def __init__(self) -> None:
        self._keys: dict[str, FunctionKey] = {}

    def translations(self) -> dict[Any, Callable[..., Any]]:
        """What the exporter writes for each op: its ``custom_translation_table``."""
        return {_op(name).custom_op.default: self._translation(name) for name in OP_NAMES}

    def add_to(self, model: "ir.Model") -> None:
        """Add every function that the model's graph calls."""
        import onnx
        import onnx_ir as ir

        for node in model.graph:
            if node.domain == DOMAIN and node.op_identifier() not in model.functions:
                body = onnx.FunctionProto()  # a copy: passes rename what they find in it
                body.CopyFrom(function_body(self._keys[node.op_type]))
                model.functions[node.op_identifier()] = ir.serde.deserialize_function(body)
                model.graph.opset_imports[DOMAIN] = 1

    def _translation(self, name: str) -> Callable[..., Any]:
        parameters = _parameters(name)

        def translate(*values: Any) -> Any:
            from onnxscript.values import Op as OnnxOp
            from onnxscript.values import Opset

            form = node_form(name)(_call(parameters, values))
            arguments = tuple(_argument(form, *each) for each in zip(parameters, values, strict=False))
            key = FunctionKey(form.node, name, arguments)
            if self._keys.setdefault(form.node, key) != key:
                raise RuntimeError(f"{form.node}: two calls need different bodies, {self._keys[form.node]} and {key}")
            tensors = [value for value in values if _is_tensor(value)]
            schema = _schema(form.node, len(tensors), len(_op(name).custom_op.default._schema.returns))
            return OnnxOp(Opset(DOMAIN, 1), form.node, schema)(*tensors)

        translate.__name__ = name
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(each, kind) for each in parameters])
        translate.__signature__ = signature  # type: ignore[attr-defined]
        return translate


@lru_cache(maxsize=64)
def function_body(key: FunctionKey) -> "onnx.FunctionProto":
    """Export an op's reference alone and make it a function."""
    import onnx_ir as ir
    import torch

    translation = body_translation(key.op)
    run: Any = _op(key.op).reference if translation is None else _op(key.op).custom_op
    tensors = {p: a for p, a in zip(_parameters(key.op), key.arguments, strict=False) if isinstance(a, TensorArgument)}
    free = {size.axis for tensor in tensors.values() for size in tensor.shape if isinstance(size, Free)}
    dims = {axis: torch.export.Dim(axis, min=1, max=1 << 20) for axis in free}
    dynamic = tuple(
        {index: dims[size.axis] for index, size in enumerate(tensor.shape) if isinstance(size, Free)}
        for tensor in tensors.values()
    )

    class Reference(torch.nn.Module):
        def forward(self, *given: torch.Tensor) -> Any:
            rest = iter(given)
            arguments = (next(rest) if isinstance(each, TensorArgument) else each for each in key.arguments)
            return run(*arguments)

    with torch.no_grad():
        examples = tuple(_example(tensor) for tensor in tensors.values())
        program = torch.export.export(Reference(), examples, dynamic_shapes=(dynamic,))
    model = onnx_model(program, translation and {run.default: translation})
    for value, parameter in zip(model.graph.inputs, tensors, strict=True):
        value.name = parameter
    for index, value in enumerate(model.graph.outputs):
        value.name = f"output{index or ''}"
    fix_reshapes(model.graph)
    optimise(model)
    if widen(model.graph, OPSET):
        optimise(model)
    name_nodes(model.graph)
    strip(model)
    constants_as_nodes(model.graph)
    forget_types(model.graph)
    return ir.serde.serialize_function(ir.Function(DOMAIN, key.node, graph=model.graph, attributes=[]))


def _op(name: str) -> "Op":
    found: Op = getattr(import_module(f"img_deploy.kernels.{name}"), name)
    return found


def _parameters(name: str) -> list[str]:
    return [argument.name for argument in _op(name).custom_op.default._schema.arguments]


def _example(tensor: TensorArgument) -> "torch.Tensor":
    import torch

    shape = [_TRACED_SIZES[size.axis] if isinstance(size, Free) else size for size in tensor.shape]
    return torch.ones(shape, dtype=getattr(torch, tensor.dtype))


def _is_tensor(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | int | float)


def _call(parameters: Sequence[str], values: Sequence[Any]) -> Call:
    named = dict(zip(parameters, values, strict=False))
    shapes = {name: value.shape for name, value in named.items() if _is_tensor(value)}
    return Call(
        shapes={name: tuple(size if isinstance(size, int) else None for size in shapes[name]) for name in shapes},
        values={name: value for name, value in named.items() if name not in shapes},
    )


def _argument(form: NodeForm, name: str, value: Any) -> Argument:
    if not _is_tensor(value):
        given: Argument = value
        return given
    axes = form.axes.get(name, (None,) * len(value.shape))
    sizes = tuple(Free(axis) if axis else size for axis, size in zip(axes, value.shape, strict=True))
    if unknown := [size for size in sizes if not isinstance(size, int | Free)]:
        raise RuntimeError(f"{form.node}: {name} is {value.shape}, but its lowering leaves {unknown} fixed")
    return TensorArgument(sizes, _TORCH_DTYPES[value.dtype.name])


def _schema(node: str, inputs: int, outputs: int) -> Any:
    import onnx

    types = [f"tensor({name})" for name in ("float", "float16", "bfloat16", "bool", "int32", "int64")]

    def formals(letter: str, count: int) -> list[Any]:
        return [onnx.defs.OpSchema.FormalParameter(f"{letter}{i}", f"{letter.upper()}{i}") for i in range(count)]

    constraints = [(f"{letter}{i}", types, "") for letter, n in (("I", inputs), ("O", outputs)) for i in range(n)]
    return onnx.defs.OpSchema(
        node, DOMAIN, 1, inputs=formals("i", inputs), outputs=formals("o", outputs), type_constraints=constraints
    )
