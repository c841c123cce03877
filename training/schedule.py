"""What changes over a run: the two warm-ups, the learning rate, and which parameters decay."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from img_deploy.errors import ConfigError

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR

NO_DECAY = ("bias", "layer_norm", "LayerNorm")
"""A parameter whose name contains one of these has no weight decay."""


def warm_up(epoch: float, epochs: int) -> float:
    """w(e) = 1 + cos((e / (2 n) - 1) π) for e <= n, then 1: rises from 0 to 1 over the first n epochs.

    Args:
        epoch: e, counted from 0.
        epochs: n. With 0 there is no warm-up.
    """
    if epochs <= 0 or epoch >= epochs:
        return 1.0
    return 1.0 + math.cos((epoch / (2 * epochs) - 1.0) * math.pi)


def linear_decay(step: int, total_steps: int) -> float:
    """Factor of the learning rate before optimiser step ``step`` (from 0): (total - step) / total, at least 0."""
    if total_steps < 1:
        raise ConfigError(f"total_steps: got {total_steps}, expected at least 1")
    return max(0.0, (total_steps - step) / total_steps)


def parameter_groups(
    named_parameters: Iterable[tuple[str, "Parameter"]],
    weight_decay: float = 0.01,
    no_decay: tuple[str, ...] = NO_DECAY,
) -> list[dict[str, Any]]:
    """Two AdamW groups: with weight decay, and without for names that contain one of ``no_decay``.

    The rule goes by name, as published: norms that are called otherwise (``norm_slots``) do decay. Frozen
    parameters are left out.
    """
    decayed: list[Parameter] = []
    plain: list[Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            (plain if any(part in name for part in no_decay) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(
    named_parameters: Iterable[tuple[str, "Parameter"]],
    total_steps: int,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.01,
    fused: bool = False,
) -> tuple["AdamW", "LambdaLR"]:
    """AdamW over :func:`parameter_groups` and its linear decay to 0, to be stepped after every optimiser step.

    Args:
        fused: update all parameters in one call; the same numbers up to rounding.
    """
    from torch.optim import AdamW
    from torch.optim.lr_scheduler import LambdaLR

    linear_decay(0, total_steps)  # an impossible total is refused now, not at the first step
    optimizer = AdamW(parameter_groups(named_parameters, weight_decay), lr=learning_rate, fused=fused)
    return optimizer, LambdaLR(optimizer, lambda step: linear_decay(step, total_steps))
