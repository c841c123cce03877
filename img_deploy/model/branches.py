"""Parts of the network that do not depend on each other; a backend may run them side by side."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Part = TypeVar("Part")
Together = Callable[..., list[Any]]

_together: ContextVar[Together | None] = ContextVar("img_deploy_together", default=None)


def branches(*parts: Callable[[], Part]) -> list[Part]:
    """What each of ``parts`` gives, in order. Computed one after the other, unless :func:`side_by_side` is active."""
    together = _current()
    return [part() for part in parts] if together is None else together(*parts)


def _current() -> Together | None:
    return _together.get()


# What ``torch.compiler.assume_constant_result`` sets, without importing Dynamo, which cannot trace a ContextVar.
_current._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def side_by_side(together: Together) -> Iterator[None]:
    """Let ``together(*parts)`` compute the branches of calls in this context; it returns what each part gave."""
    token = _together.set(together)
    try:
        yield
    finally:
        _together.reset(token)
