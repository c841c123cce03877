"""One op: its reference, the schema that follows from it, and the registration of both with PyTorch's dispatcher."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from img_deploy.kernels.dispatch import is_active

NAMESPACE = "img_deploy"


def like_first(first: Tensor, *_: object) -> Tensor:
    """The fake of an op whose output has shape and dtype of its first input."""
    return torch.empty_like(first)


class Op:
    """A fused block, callable. Plain calls run the reference; under ``use_ops`` the registered custom op.

    Its name is that of the reference and of the folder ``kernels/<name>``; its schema is the reference's signature
    without arguments that have a default (``dropout_p``), which only training passes.

    Args:
        reference: plain PyTorch, differentiable, annotated.
        fake: shapes and dtypes of the outputs, for export and compilation.
        trained: what runs while gradients are recorded, where the reference is slow to differentiate.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        fake: Callable[..., Any] = like_first,
        trained: Callable[..., Any] | None = None,
    ) -> None:
        self.name, self.reference, self.fake = reference.__name__, reference, fake
        self.trained = trained or reference
        qualified = f"{NAMESPACE}::{self.name}"
        torch.library.define(qualified, schema_of(reference))
        torch.library.impl(qualified, "CPU")(reference)
        torch.library.impl(qualified, "CUDA")(self.run_kernel)
        torch.library.register_fake(qualified)(fake)
        self.custom_op = getattr(torch.ops.img_deploy, self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_active(self.name) and not kwargs.get("dropout_p"):
            kwargs.pop("dropout_p", None)
            return self.custom_op(*args, **kwargs)
        return (self.trained if torch.is_grad_enabled() else self.reference)(*args, **kwargs)

    def run_kernel(self, *args: Any) -> Any:
        """The Triton kernel on these arguments."""
        kernel = import_module(f"{NAMESPACE}.kernels.{self.name}.kernel")
        return getattr(kernel, self.name)(*args)


def op_parameters(reference: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments of an op: those of its reference that have no default."""
    parameters = inspect.signature(reference).parameters.values()
    return [parameter for parameter in parameters if parameter.default is parameter.empty]


def tensor_names(op: str) -> tuple[str, ...]:
    """The arguments of op ``op`` that are tensors, in order."""
    reference = getattr(import_module(f"{NAMESPACE}.kernels.{op}.reference"), op)
    return tuple(each.name for each in op_parameters(reference) if each.annotation in (Tensor, Tensor | None))


def schema_of(reference: Callable[..., Any]) -> str:
    """Dispatcher schema of the inference form, e.g. ``(Tensor x, SymInt heads) -> Tensor``."""

    def inference(*_: object) -> None:
        """Has the reference's signature without what training adds."""

    signature = inspect.signature(reference)
    inference.__signature__ = signature.replace(parameters=op_parameters(reference))  # type: ignore[attr-defined]
    schema: str = torch.library.infer_schema(inference, mutates_args=())
    return schema
