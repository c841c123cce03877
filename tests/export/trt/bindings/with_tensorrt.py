"""Makes ``import tensorrt`` and ``import tensorrt.plugin`` give the bindings that are on the path.

The registry of plugins and the expressions of sizes live in TensorRT's libraries, which are not here: the registry is
replaced at its one entry, ``get_plugin_registry``, and an expression is a tree that can be evaluated.
"""

import sys
from typing import Any

import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt


class Registry:
    """Keeps what is registered."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators[creator.name, creator.plugin_version, namespace] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


registry = Registry()
trt.get_plugin_registry = lambda: registry

import tensorrt_bindings.plugin as plugin  # noqa: E402 (after the registry is replaced)

sys.modules["tensorrt.plugin"] = plugin


class Expression(trt.IDimensionExpr):
    """A size: a number, a letter, or an operation on two of them."""

    tree: Any

    def is_constant(self) -> bool:
        return isinstance(self.tree, int)

    def get_constant_value(self) -> int:
        return self.tree


def expression(tree: Any) -> Expression:
    made = Expression.__new__(Expression)  # the class has no constructor of its own
    made.tree = tree
    return made


class Expressions:
    """What TensorRT calls an expression builder."""

    def constant(self, value: int) -> Expression:
        return expression(value)

    def operation(self, operation: Any, first: Any, second: Any) -> Expression:
        if first.is_constant() and second.is_constant():
            return expression(evaluated((operation.name, first.tree, second.tree), {}))
        return expression((operation.name, first.tree, second.tree))


def evaluated(tree: Any, sizes: dict[str, int]) -> int:
    """The number that an expression stands for where the letters are known."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return sizes[tree]
    name, first, second = tree
    a, b = evaluated(first, sizes), evaluated(second, sizes)
    known = {"SUM": a + b, "SUB": a - b, "PROD": a * b, "FLOOR_DIV": a // b if b else 0}
    known |= {"CEIL_DIV": -(-a // b) if b else 0, "MIN": min(a, b), "MAX": max(a, b)}
    return known[name]
