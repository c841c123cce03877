"""The fused ops as local functions of an ONNX model, of the bodies that the ops declare."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from img_deploy.export.exporter import OPSET
from img_deploy.export.graph_passes import name_nodes
from img_deploy.kernels.dispatch import OP_NAMES
from img_deploy.kernels.dtypes import ELEMENT_TYPES, PRECISIONS, named
from img_deploy.kernels.lowering import DOMAIN, Call, NodeForm, node_form, onnx_body
from img_deploy.kernels.onnx_nodes import Nodes

if TYPE_CHECKING:
    import onnx_ir as ir

    from img_deploy.kernels.op import Op

FLOATS = tuple(ELEMENT_TYPES[precision].torch for precision in PRECISIONS)


@dataclass(frozen=True)
class TensorArgument:
    """A tensor that an op is given, as far as the op's body depends on it."""

    shape: tuple[int | None, ...]
    """None for an axis that stays free."""
    dtype: str
    """As torch calls it."""


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
        for node in model.graph:
            if node.domain == DOMAIN and node.op_identifier() not in model.functions:
                model.functions[node.op_identifier()] = function_of(self._keys[node.op_type])
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


def function_of(key: FunctionKey) -> "ir.Function":
    """The function that calls of one node name share."""
    import onnx_ir as ir

    arguments = dict(zip(_parameters(key.op), key.arguments, strict=False))
    tensors = {name: each for name, each in arguments.items() if isinstance(each, TensorArgument)}
    inputs = {name: ir.Value(name=name) for name in tensors}
    shapes = {name: each.shape for name, each in tensors.items()}
    call = Call(shapes, {name: each for name, each in arguments.items() if name not in tensors})
    nodes = Nodes(next(each.dtype for each in tensors.values() if each.dtype in FLOATS))
    outputs = onnx_body(key.op)(nodes, call, SimpleNamespace(**arguments | inputs))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for index, value in enumerate(outputs):
        value.name = f"output{index or ''}"
    graph = ir.Graph(list(inputs.values()), outputs, nodes=nodes.tape.nodes, opset_imports={"": OPSET})
    name_nodes(graph)
    return ir.Function(DOMAIN, key.node, graph=graph, attributes=[])


def _op(name: str) -> "Op":
    found: Op = getattr(import_module(f"img_deploy.kernels.{name}"), name)
    return found


def _parameters(name: str) -> list[str]:
    return [argument.name for argument in _op(name).custom_op.default._schema.arguments]


def _is_tensor(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | int | float)


def _call(parameters: Sequence[str], values: Sequence[Any]) -> Call:
    given = dict(zip(parameters, values, strict=False))
    shapes = {name: _sizes(value.shape) for name, value in given.items() if _is_tensor(value)}
    return Call(shapes, {name: value for name, value in given.items() if name not in shapes})


def _sizes(shape: Iterable[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)


def _argument(form: NodeForm, name: str, value: Any) -> Argument:
    if not _is_tensor(value):
        given: Argument = value
        return given
    axes = form.axes.get(name, (None,) * len(value.shape))
    sizes = tuple(None if axis else size for axis, size in zip(axes, _sizes(value.shape), strict=True))
    if any(axis is None and size is None for axis, size in zip(axes, sizes, strict=True)):
        raise RuntimeError(f"{form.node}: {name} is {value.shape}, but only {axes} are declared to be free")
    return TensorArgument(sizes, named("onnx", value.dtype.name).torch)


def _schema(node: str, inputs: int, outputs: int) -> Any:
    import onnx

    types = [each.onnxruntime for each in ELEMENT_TYPES.values()]

    def formals(letter: str, count: int) -> list[Any]:
        return [onnx.defs.OpSchema.FormalParameter(f"{letter}{i}", f"{letter.upper()}{i}") for i in range(count)]

    constraints = [(f"{letter}{i}", types, "") for letter, n in (("I", inputs), ("O", outputs)) for i in range(n)]
    return onnx.defs.OpSchema(
        node, DOMAIN, 1, inputs=formals("i", inputs), outputs=formals("o", outputs), type_constraints=constraints
    )
