"""How a call of an op becomes one node of an ONNX graph: what every ``kernels/<op>/export.py`` declares.

The node calls a function of the same model, whose body is standard ops (see ``onnx_nodes``). Needs neither torch nor
ONNX.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

DOMAIN = "img_deploy"
"""ONNX domain of the functions, and namespace of the plugins that stand in for them in an engine."""

Axes = Mapping[str, tuple[str | None, ...]]


@dataclass(frozen=True)
class Call:
    """One call of an op: its arguments by the schema's names."""

    shapes: Mapping[str, tuple[int | str | None, ...]]
    """Shape of each tensor that is given; an axis that is free is no int."""
    values: Mapping[str, Any]
    """Each argument that is no tensor."""

    def given(self, name: str) -> bool:
        """Whether an optional tensor is given."""
        return name in self.shapes

    def size(self, name: str, axis: int) -> int:
        """Size of an axis that the weights fix."""
        size = self.shapes[name][axis]
        assert isinstance(size, int), f"axis {axis} of {name} is not fixed"
        return size


@dataclass(frozen=True)
class NodeForm:
    """The node that a call becomes.

    ``node`` names node, function and plugin at once; calls of one name share a body, so whatever changes the body
    (an optional tensor, a number of layers) must show in it. TensorRT's parser goes by this name alone: it is
    that of no standard op. ``axes`` names the free axes of each argument; arguments that it leaves out are fixed.
    """

    node: str
    axes: Axes


def node_form(op: str) -> Callable[[Call], NodeForm]:
    """What op ``op`` declares."""
    form: Callable[[Call], NodeForm] = _module(op).node_form
    return form


def onnx_body(op: str) -> Callable[..., Any]:
    """How op ``op`` writes the body of its node: ``body(nodes, call, given)`` returns its outputs.

    ``given`` holds the op's arguments by name: values of the function for tensors, and numbers or None.
    """
    body: Callable[..., Any] = _module(op).body
    return body


def _module(op: str) -> Any:
    return import_module(f"{__package__}.{op}.export")
