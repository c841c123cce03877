"""What a check of a kernel needs: a tolerance, the reference in float64, outputs that tell who wrote them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """How far a kernel may be from the float64 reference, element by element:
    ``|got - expected| <= absolute + relative * |expected|``."""

    absolute: float
    relative: float
    reason: str
    """One line: what rounds, and how often."""


def in_float64(reference: Callable[..., Any], *args: Any) -> Any:
    """The reference in float64 throughout, on a CPU, arguments as stored.

    The references call ``.float()`` where a kernel computes in float32 whatever the storage; on float64 values it
    would round there, so for the length of the call it returns float64 unchanged.
    """
    kind: Any = Tensor
    single = kind.float

    def wide(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.cpu().double() if value.is_floating_point() else value.cpu()

    given = [wide(arg) for arg in args]
    kind.float = lambda self: self if self.dtype == torch.float64 else single(self)
    try:
        return reference(*given)
    finally:
        kind.float = single


@contextmanager
def poisoned_outputs() -> Iterator[None]:
    """Context in which memory that nobody has written holds NaN (-7 in integers), not the zeros it happens to hold."""
    owners: tuple[tuple[Any, str], ...] = ((torch, "empty"), (torch, "empty_like"), (Tensor, "new_empty"))
    made = [getattr(owner, name) for owner, name in owners]

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def fill(*args: Any, **kwargs: Any) -> Tensor:
            tensor = allocate(*args, **kwargs)
            if tensor.dtype == torch.bool:
                return tensor.fill_(True)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else -7)

        return fill

    for (owner, name), allocate in zip(owners, made, strict=True):
        setattr(owner, name, poisoned(allocate))
    try:
        yield
    finally:
        for (owner, name), allocate in zip(owners, made, strict=True):
            setattr(owner, name, allocate)


def largest_difference(got: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite where the shapes differ or a value is missing (NaN)."""
    if got.shape != expected.shape:
        return float("inf")
    wide = got.detach().cpu().double()
    if wide.isnan().any():
        return float("inf")
    return float((wide - expected).abs().max()) if wide.numel() else 0.0


def share_of_tolerance(got: Tensor, expected: Tensor, tolerance: Tolerance) -> float:
    """Largest difference as a share of what is allowed there: at most 1 passes; infinite as above."""
    if largest_difference(got, expected) == float("inf"):
        return float("inf")
    allowed = tolerance.absolute + tolerance.relative * expected.abs()
    shares = (got.detach().cpu().double() - expected).abs() / allowed
    return float(shares.max()) if shares.numel() else 0.0
