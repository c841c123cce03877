"""The plugin nodes that tests try, with inputs of any size."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

NODES = Path(__file__).parents[1] / "golden" / "trt" / "plugin_nodes.json"


@pytest.fixture(scope="session")
def node_shapes() -> Callable[..., dict[str, tuple[int, ...]]]:
    """``node_shapes("ImgConvBlock4", B=2, L=37, N=5, D=32)``: input name -> shape, as a node of a network has them."""
    nodes = json.loads(NODES.read_text())

    def shapes(node: str, **sizes: int) -> dict[str, tuple[int, ...]]:
        def size(axis: int | str) -> int:
            if isinstance(axis, int):
                return axis
            times, letter = re.fullmatch(r"(\d*)([A-Z])", axis).groups()
            return int(times or 1) * sizes[letter]

        return {name: tuple(size(axis) for axis in axes) for name, axes in nodes[node].items()}

    return shapes


@pytest.fixture(scope="session")
def node_types() -> Callable[..., dict[str, str]]:
    """``node_types("ImgConvBlock4", "fp16")``: input name -> element type."""
    nodes = json.loads(NODES.read_text())

    def types(node: str, storage: str) -> dict[str, str]:
        def kind(name: str) -> str:
            own = {"lengths": "int32", "importance": "fp32", "word_unknown": "bool", "char_ids": "int64"}
            return "bool" if name.endswith("mask") else own.get(name, storage)

        return {name: kind(name) for name in nodes[node]}

    return types
