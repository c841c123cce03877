"""One op: one schema, its reference, and the registration of both with the PyTorch dispatcher."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from img_deploy.kernels.dispatch import is_active

NAMESPACE = "img_deploy"


class Op:
    """A fused block, callable. Plain calls run the reference; under ``use_ops`` the registered custom op.

    Args:
        name: also the folder ``kernels/<name>`` and the reference's function name.
        schema: dispatcher schema of the inference form, e.g. ``(Tensor x, int heads) -> Tensor``.
        reference: plain PyTorch, differentiable; may take ``dropout_p`` after the schema's arguments.
        fake: shapes and dtypes of the outputs, for export and compilation.
        trained: what runs while gradients are recorded, where the reference is slow to differentiate.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        trained: Callable[..., Any] | None = None,
    ) -> None:
        self.trained = trained or reference
        self.name, self.schema, self.reference, self.fake = name, schema, reference, fake
        qualified = f"{NAMESPACE}::{name}"
        torch.library.define(qualified, schema)
        torch.library.impl(qualified, "CPU")(reference)
        torch.library.impl(qualified, "CUDA")(self._on_cuda)
        torch.library.register_fake(qualified)(fake)
        self.custom_op = getattr(torch.ops.img_deploy, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_active(self.name) and not kwargs.get("dropout_p"):
            kwargs.pop("dropout_p", None)
            return self.custom_op(*args, **kwargs)
        return (self.trained if torch.is_grad_enabled() else self.reference)(*args, **kwargs)

    def _on_cuda(self, *args: Any) -> Any:
        kernel = import_module(f"{NAMESPACE}.kernels.{self.name}.kernel")
        return getattr(kernel, self.name)(*args)
