"""The ops with the arguments that the network calls them with, recorded from a run of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from img_deploy.benchmarks.on_gpu.network import Chain, draw_feeds, on_device, random_network, storage_of
from img_deploy.kernels.dispatch import is_active
from img_deploy.kernels.op import Op
from img_deploy.model.config import ModelConfig
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork


@dataclass(frozen=True, eq=False)
class OpCall:
    """One call of an op: its name and all of its schema's arguments."""

    op: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        """Shapes of the first argument, and kilobytes of all: what tells the calls of one op apart."""
        first = "x".join(map(str, self.arguments[0].shape))
        tensors = [one for one in self.arguments if isinstance(one, Tensor)]
        return f"{first}, {sum(one.numel() * one.element_size() for one in tensors) / 1024:.1f} KB"

    def kernel(self) -> Any:
        """What the op's host function gives, which launches the Triton kernel whatever device the tensors are on."""
        return _function(self.op, "kernel")(*self.arguments)

    def reference(self) -> Any:
        """What the op's plain PyTorch reference gives."""
        return reference_of(self.op)(*self.arguments)


def reference_of(op: str) -> Callable[..., Any]:
    return _function(op, "reference")


def _function(op: str, module: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(import_module(f"img_deploy.kernels.{op}.{module}"), op)
    return found


def op_calls(
    config: ModelConfig, precision: str, device: str, lengths: tuple[int, ...], clips: int, op: str | None = None
) -> list[OpCall]:
    """Every call, each shape once, for pairs of so many real clips; 0 masks a sample fully.

    ``best_spans``, which runs of the graphs call, gets the logits that the network gives, in every type.

    Args:
        op: this one's calls alone.
    """
    packed = PackedNetwork(random_network(config), precision, device)
    inputs = on_device(draw_feeds(config, lengths, clips), precision, device)
    with _recording() as found:
        start, end, *_ = Chain(packed.network, packed)(inputs)
    logits = [one.clamp(min=-1e4).to(storage_of(precision)) for one in (start, end)]
    found += [OpCall("best_spans", (*logits, inputs["clip_mask"], count)) for count in (1, 5)]
    distinct = {(call.op, *map(_kind, call.arguments)): call for call in reversed(found)}
    return [call for call in reversed(distinct.values()) if op in (None, call.op)]


@contextmanager
def _recording() -> Iterator[list[OpCall]]:
    """Context in which calls of ops under ``use_ops`` are kept, and run the reference."""
    found: list[OpCall] = []
    kind: Any = Op
    plain = kind.__call__

    def call(op: Op, *args: Any, **kwargs: Any) -> Any:
        if not is_active(op.name):
            return plain(op, *args, **kwargs)
        found.append(OpCall(op.name, tuple(_alone(one) for one in args)))
        return op.reference(*args)

    kind.__call__ = call
    try:
        yield found
    finally:
        kind.__call__ = plain


def _alone(value: Any) -> Any:
    """An argument as kernels take it. What is wider than a deviation of 1 is scaled: tolerances are for such values."""
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() and value.numel() > 1:
        value = value / value.float().std().clamp(min=1).to(value.dtype)
    return value.contiguous()


def _kind(value: Any) -> Any:
    return (value.dtype, *value.shape) if isinstance(value, Tensor) else value
