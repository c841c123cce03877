"""PyTorch's ONNX exporter, quiet and without its own optimisation."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    _read_translations_once()
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False, custom_translation_table=table
        )
    assert exported is not None
    return exported.model


def _read_translations_once() -> None:
    """The exporter parses the sources of its hundreds of translations anew for each graph: a sixth of the time."""
    from torch.onnx._internal.exporter import _registration

    source: Any = getattr(_registration, "onnxscript_apis", None)
    if hasattr(source, "get_torchlib_ops") and not hasattr(source.get_torchlib_ops, "cache_info"):
        source.get_torchlib_ops = cache(source.get_torchlib_ops)


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
