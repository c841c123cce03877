"""PyTorch's ONNX exporter, quiet and without its own optimisation."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch.export import ExportedProgram

OPSET = 18
"""ONNX opset of every graph: the one that the exporter writes; TensorRT's parser takes 9 to 20."""


def onnx_model(program: "ExportedProgram", table: dict[Any, Callable[..., Any]] | None = None) -> "ir.Model":
    """Translate a program; ``table`` gives the translation of ops that are not PyTorch's."""
    import torch

    with _quiet(), _registry_kept():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False, custom_translation_table=table
        )
    assert exported is not None
    return exported.model


@contextmanager
def _registry_kept() -> Iterator[None]:
    """The exporter builds its registry of translations anew for every program: a second or more each time."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    kept, building = _registry(), ONNXRegistry.__dict__["from_torchlib"]

    def copied(**_: Any) -> ONNXRegistry:
        registry = copy(kept)
        registry.functions = {op: list(translations) for op, translations in kept.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = staticmethod(copied)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = building


@cache
def _registry() -> Any:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    return ONNXRegistry.from_torchlib(opset_version=OPSET)


@contextmanager
def _quiet() -> Iterator[None]:
    """Remarks on torchvision's operators and on PyTorch's own deprecations help nobody who exports a network."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        registration.setLevel(level)
