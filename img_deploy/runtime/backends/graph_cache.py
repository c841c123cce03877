"""The captured graphs of a backend, by what they were captured for; those not used for longest make room."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from img_deploy.runtime.backends.cuda import capturing

Key = TypeVar("Key", bound=Hashable)
Captured = TypeVar("Captured")


class GraphCache(Generic[Key, Captured]):
    """Captures on first use and keeps at most ``most``. For one thread at a time.

    >>> cache = GraphCache(lambda key: f"graph {key}", most=2)
    >>> cache.get(8), len(cache)
    ('graph 8', 1)
    """

    def __init__(
        self, capture: Callable[[Key], Captured], most: int, before: Callable[[Captured], object] = lambda _: None
    ) -> None:
        """``before``: called with each before it is let go of."""
        if most < 1:
            raise ValueError(f"got room for {most} graphs, expected at least 1")
        self._capture, self._most, self._before = capture, most, before
        self._kept: OrderedDict[Key, Captured] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> Captured:
        """The graph of ``key``. What capturing raises is raised, and nothing is kept then."""
        kept = self._kept.get(key)
        if kept is None:
            # First room, then the capture: the memory of the one is needed for the other.
            while len(self._kept) >= self._most:
                self._before(next(iter(self._kept.values())))
                with capturing:
                    self._kept.popitem(last=False)
            kept = self._kept[key] = self._capture(key)
        self._kept.move_to_end(key)
        return kept

    def clear(self) -> None:
        """Let go of all of them."""
        for each in self._kept.values():
            self._before(each)
        with capturing:
            self._kept.clear()
