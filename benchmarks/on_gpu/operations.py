"""Operations of a training step on a GPU, counted without one.

``python -m img_deploy.benchmarks.on_gpu.operations`` prints those of this project's step and of the published way's. A
step of few pairs takes as long as the host takes to launch it. Counted are the calls that reach PyTorch's dispatcher
below autograd. Tensors lie on the CPU, but take the branches of a GPU; a GRU layer computes nothing and counts as the
one launch that it is in a kernel, a stack of layers as one of cuDNN, a cell's gates as one.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from img_deploy.benchmarks.on_gpu import training
from img_deploy.benchmarks.on_gpu.network import FULL
from img_deploy.benchmarks.page import table
from img_deploy.kernels import functional, linear_gradient
from img_deploy.kernels.bigru import backward, gradient, kernel

VIEWS = {
    *("alias", "as_strided", "detach", "expand", "is_same_size", "permute", "select", "slice", "split", "squeeze", "t"),
    *("split_with_sizes", "transpose", "unbind", "unfold", "unsqueeze", "view", "_unsafe_view"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
    *("_record_function_enter_new", "_record_function_exit"),
}
"""Operators that launch nothing."""
WAITS = {"_local_scalar_dense", "equal", "masked_select", "nonzero"}
"""Operators that the host waits for the device in."""
PHASES = ("forward", "loss", "backward", "update")


@dataclass
class Count:
    """Of one phase: ``launches``, all ``calls``, with views and new tensors, and how often the host ``waits``."""

    launches: int = 0
    calls: int = 0
    waits: int = 0


class Counter(TorchDispatchMode):
    """Counts by phase; the phase is the last one that began."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {phase: Count() for phase in PHASES}
        self.phase = PHASES[0]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        self.add(int(name not in VIEWS))
        self.counts[self.phase].waits += name in WAITS
        return func(*args, **(kwargs or {}))

    def add(self, launches: int) -> None:
        self.counts[self.phase].launches += launches
        self.counts[self.phase].calls += 1

    def during(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """``work`` in its phase; what follows it is in that phase too, until another begins."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self.phase = phase
            return work(*args, **kwargs)

        return run


def count_step(name: str, batch: int = 2, clips: int = 4) -> dict[str, Count]:
    """Of one of :data:`img_deploy.benchmarks.on_gpu.training.WAYS`, by phase; sizes do not matter."""
    counter = Counter()
    with _as_on_a_gpu(counter), _phases(counter):
        _, _, step = training.make_step(training.WAYS[name], FULL, batch, clips, "cpu")
        step()  # the first one makes the optimiser's state
        with counter:
            counter.phase = PHASES[0]
            counter.counts = {phase: Count() for phase in PHASES}
            step()
    return counter.counts


@contextmanager
def _phases(counter: Counter) -> Iterator[None]:
    with ExitStack() as stack:
        for place, name, phase in (
            (training, "total_loss", "loss"),
            (Tensor, "backward", "backward"),
            (torch.nn.utils, "clip_grad_norm_", "update"),
        ):
            stack.enter_context(patch.object(place, name, counter.during(phase, getattr(place, name))))
        yield


@contextmanager
def _as_on_a_gpu(counter: Counter) -> Iterator[None]:
    launches = MagicMock()
    launches.__getitem__.return_value = lambda *_args, **_options: counter.add(1)
    with ExitStack() as stack:
        for place, name, value in (
            (functional, "on_cpu", lambda _x: False),
            (linear_gradient, "_onednn", lambda: False),
            (functional.F, "dropout", lambda x, p: torch.native_dropout(x, p, True)[0]),
            (gradient, "_has_kernels", lambda _x, _weight: True),
            (kernel, "config_for", MagicMock()),
            (kernel, "_launch", lambda *_: counter.add(1)),
            (backward, "config_for", MagicMock()),
            (backward, "gru_backward", launches),
            (torch._VF, "gru", _cudnn_gru),
            (torch, "gru_cell", _fused_gru_cell),
        ):
            stack.enter_context(patch.object(place, name, value))
        yield


def _cudnn_gru(data: Tensor, _sizes: Tensor, state: Tensor, weights: list[Tensor], *_: Any) -> tuple[Tensor, Tensor]:
    """In the place of the GRU over packed sequences."""
    return _OneLaunch.apply(data, 2 * state.shape[-1], *weights), state


def _fused_gru_cell(x: Tensor, state: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """In the place of a GRU cell, whose gates are one launch after two products."""
    found: Tensor = _OneLaunch.apply(x @ w_ih.T, state.shape[-1], state @ w_hh.T, b_ih, b_hh)
    return found


class _OneLaunch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor, width: int, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(data, *weights)
        return data.new_zeros(len(data), width)

    @staticmethod
    def backward(ctx: Any, _grad: Tensor) -> tuple[Tensor | None, ...]:
        data, *weights = ctx.saved_tensors
        # cuDNN gives all weights' gradients in one tensor.
        flat = data.new_zeros(sum(weight.numel() for weight in weights))
        parts = flat.split([weight.numel() for weight in weights])
        return torch.empty_like(data), None, *map(Tensor.view_as, parts, weights)


def main() -> int:
    """Print both counts."""
    counts = {name: count_step(name) for name in training.WAYS}
    rows = [
        (phase, *(f"{one[phase].launches:,} of {one[phase].calls:,}" for one in counts.values())) for phase in PHASES
    ]
    whole = [(sum(c.launches for c in one.values()), sum(c.calls for c in one.values())) for one in counts.values()]
    rows.append(("step", *(f"{launches:,} of {calls:,}" for launches, calls in whole)))
    print("\n".join(table(("phase", *counts), rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
