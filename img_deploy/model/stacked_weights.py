"""The weights of several parts of a network as one tensor per name, copied together in every step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from img_deploy.model.stacked_ops import Weights


class StackedWeights:
    """Calling it gives the parameters of each part as they are now: by part, by name, each [S, ...].

    Args:
        parts: S modules of one kind by the name of their part.
    """

    def __init__(self, parts: Mapping[str, Sequence[nn.Module]]) -> None:
        self._names = [(part, name) for part, modules in parts.items() for name, _ in modules[0].named_parameters()]
        groups = [[module.get_parameter(name) for module in parts[part]] for part, name in self._names]
        self._shapes = [(len(group), *group[0].shape) for group in groups]
        self._parameters = [parameter for group in groups for parameter in group]

    def __call__(self) -> dict[str, Weights]:
        found: dict[str, Weights] = {}
        values = StackFunction.apply(self._shapes, *self._parameters)
        for (part, name), value in zip(self._names, values, strict=True):
            found.setdefault(part, {})[name] = value
        return found


class StackFunction(torch.autograd.Function):
    """Consecutive tensors stacked to given shapes [S, ...], in one copy of all; once differentiable."""

    @staticmethod
    def forward(ctx: Any, shapes: list[tuple[int, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.shapes = shapes
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        sizes = [torch.Size(shape).numel() for shape in shapes]
        return tuple(part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found: list[Tensor | None] = [None]
        for grad, shape in zip(grads, ctx.shapes, strict=True):
            # Made contiguous here: autograd would copy each parameter's.
            found += [None] * shape[0] if grad is None else grad.contiguous().unbind(0)
        return tuple(found)
