"""Sizes that graphs are captured at: what is asked for is rounded up to one of few. Needs neither torch nor a GPU.

A captured graph runs at fixed sizes. More rungs waste less work on padding and take more captures; where a rung beside
the first is a multiple of 16, Triton also compiles one version of a kernel for all of them.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from img_deploy.errors import BackendError
from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.protocol import Feeds, Values

BATCH = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CLIPS = (16, 32, 48, 64, 96, 128)
WORDS = (16, 32, 64, 128)
CHARS = (16, 32, 64, 128)

FITTED = 4096
"""Combinations of shapes whose bucket is remembered."""

Range = tuple[int, int, int]
"""Smallest, best and largest size of an axis."""


class Bucket(NamedTuple):
    """One graph at fixed sizes: what a capture is kept by."""

    graph: str
    sizes: tuple[tuple[str, int], ...]
    """(axis, size) of each dynamic axis, in the order of the names."""

    def __str__(self) -> str:
        return f"{self.graph} at " + ", ".join(f"{size} {axis}" for axis, size in self.sizes)

    def shape(self, tensor: TensorSpec) -> tuple[int, ...]:
        """Shape of one of the graph's tensors in this bucket."""
        return shape_of(tensor, dict(self.sizes))


@dataclass(frozen=True)
class Ladders:
    """``rungs`` maps an axis (``batch``, ``clips``, ``words``, ``chars``) to the sizes it may take, ascending."""

    rungs: Mapping[str, tuple[int, ...]]
    _fitted: dict[Any, tuple[dict[str, int], Bucket]] = field(default_factory=dict, repr=False, compare=False)
    """By the graph's name and the shapes of its inputs: a microsecond where checking them again takes fifteen."""

    @classmethod
    def up_to(cls, limits: Mapping[str, int], batch: int = BATCH[-1]) -> "Ladders":
        """Ladders that end at a bundle's ``limits`` and at ``batch`` samples.

        >>> Ladders.up_to({"clips": 70, "words": 20, "chars": 128}).rungs["clips"]
        (16, 32, 48, 64, 70)
        """
        ends = {**{axis: limits[axis] for axis in ("clips", "words", "chars")}, "batch": batch}
        starts = {"batch": BATCH, "clips": CLIPS, "words": WORDS, "chars": CHARS}
        return cls({axis: _ladder(starts[axis], end) for axis, end in ends.items()})

    def most(self, axis: str) -> int:
        """The largest size of an axis."""
        return self.rungs[axis][-1]

    def fit(self, spec: GraphSpec, feeds: Feeds) -> tuple[dict[str, int], Bucket]:
        """:func:`sizes_of` what a graph is given, and the bucket that holds it, or as many of its samples as one may.

        Raises BackendError: inputs that do not fit each other, the graph or the ladders.
        """
        key = (spec.name, *[_shapes(feeds.get(tensor.name)) for tensor in spec.inputs])
        found = self._fitted.get(key)
        if found is None:
            sizes = sizes_of(spec, feeds)
            held = {**sizes, "batch": min(sizes["batch"], self.most("batch"))}
            found = sizes, self.bucket(spec.name, held)
            if len(self._fitted) >= FITTED:
                self._fitted.clear()
            self._fitted[key] = found
        return found

    def bucket(self, graph: str, sizes: Mapping[str, int]) -> Bucket:
        """The smallest bucket that holds ``sizes`` (axis -> size asked for).

        Raises BackendError where a size is below 1 or beyond the last rung.
        """
        return Bucket(graph, tuple((axis, self._up(graph, axis, sizes[axis])) for axis in sorted(sizes)))

    def _up(self, graph: str, axis: str, size: int) -> int:
        rungs = self.rungs[axis]
        if not 1 <= size <= rungs[-1]:
            raise BackendError(f"{graph}: got {size} {axis}, expected 1 to {rungs[-1]}")
        return rungs[bisect_left(rungs, size)]

    def below(self, axis: str, size: int) -> int:
        """The largest rung that is at most half of ``size`` and at least 1."""
        return max((rung for rung in self.rungs[axis] if 2 * rung <= size), default=1)


def _ladder(rungs: tuple[int, ...], end: int) -> tuple[int, ...]:
    """The rungs below ``end``, then on in steps of the last one where it lies beyond them, then ``end`` itself."""
    beyond = range(2 * rungs[-1], end, rungs[-1])
    return (*(rung for rung in (*rungs, *beyond) if rung < end), end)


def shape_of(tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of a tensor whose dynamic axes have these sizes."""
    return tuple(sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes)


def shape_range(tensor: TensorSpec, ranges: Mapping[str, Range]) -> tuple[tuple[int, ...], ...]:
    """Smallest, best and largest shape of a tensor whose dynamic axes have these ranges."""
    own = [ranges[axis] if isinstance(axis, str) else (axis, axis, axis) for axis in tensor.axes]
    return tuple(tuple(each[i] for each in own) for i in range(3))


def sizes_of(spec: GraphSpec, feeds: Feeds) -> dict[str, int]:
    """Axis -> size of what a graph is given.

    Raises BackendError: an input is missing, has another number of axes or another width than declared, or two inputs
    differ in the size of an axis that they share.
    """
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        values = feeds.get(tensor.name)
        if values is None:
            raise BackendError(f"{spec.name}: got no {tensor.name}, expected {', '.join(t.name for t in spec.inputs)}")
        shape = _shape(values, tensor)
        fits = len(shape) == len(tensor.axes)
        for axis, size in zip(tensor.axes, shape, strict=False):
            fits = fits and size == (sizes.setdefault(axis, size) if type(axis) is str else axis)
        if not fits:
            wanted = ", ".join(str(sizes.get(str(axis), axis)) for axis in tensor.axes)
            raise BackendError(f"{spec.name}: {tensor.name} has shape {list(shape)}, expected [{wanted}]")
    return sizes


def _shapes(values: Values | list[Values] | None) -> Any:
    if isinstance(values, list):
        return (values[0].shape,) if len(values) == 1 else tuple([each.shape for each in values])
    return values is None or values.shape


def _shape(values: Values | list[Values], tensor: TensorSpec) -> tuple[int, ...]:
    """[B, ...] of an input, as long as its longest sample; of its widths one that is not as declared, if there is."""
    if not isinstance(values, list):
        return tuple(values.shape)
    if len(values) == 1:
        return (1, *values[0].shape)
    if len(shapes := {each.shape for each in values}) == 1:
        return (len(values), *shapes.pop())
    sizes = zip(tensor.axes[1:], zip(*shapes, strict=False), strict=False)
    return (
        len(values),
        *(max(each) if isinstance(axis, str) else next((n for n in each if n != axis), axis) for axis, each in sizes),
    )
