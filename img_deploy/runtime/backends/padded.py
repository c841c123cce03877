"""Requests of any size on runs of fixed sizes: padded to a bucket, run, and cut to what is real."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.buckets import Bucket, Ladders
from img_deploy.runtime.backends.protocol import Feeds, Outputs, Values, on_host

if TYPE_CHECKING:
    from torch import Tensor

Part = Callable[[slice], Outputs]
InParts = Callable[[int, Part, str], list[Outputs]]
HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)


class FixedRun(Protocol):
    """A graph at the sizes of one bucket. For one thread at a time."""

    def __call__(self, feeds: Feeds, sizes: Mapping[str, int]) -> Outputs:
        """Outputs of samples that fit the bucket, of the sizes that they have (axis -> size). A later call does not
        change them. Where ``sizes`` is the very object of the call before, every input has the shapes that it had."""


def run_padded(
    spec: GraphSpec,
    ladders: Ladders,
    feeds: Feeds,
    open_run: Callable[[Bucket], FixedRun],
    in_parts: InParts | None = None,
) -> Outputs:
    """Outputs of a batch of any size, in as many runs as it takes.

    Args:
        spec: the graph.
        ladders: the sizes that it runs at.
        feeds: its inputs.
        open_run: gives the run of a bucket.
        in_parts: calls a function with consecutive rows of so many samples, given the graph's name for messages; by
            default, the largest batch at a time.

    Raises:
        BackendError: inputs that do not fit the graph or the ladders, beside what the runs raise.
    """
    sizes, whole = ladders.fit(spec, feeds)
    batch = sizes["batch"]

    def part(rows: slice) -> Outputs:
        if rows.stop - rows.start == batch:
            return open_run(whole)(feeds, sizes)
        own = {**sizes, "batch": rows.stop - rows.start}
        run = open_run(ladders.bucket(spec.name, own))
        return run({tensor.name: feeds[tensor.name][rows] for tensor in spec.inputs}, own)

    return _joined((in_parts or parts_of(ladders.most("batch")))(batch, part, spec.name))


def parts_of(most: int) -> InParts:
    """At most so many samples at a time."""
    return lambda batch, part, _: [part(slice(at, min(at + most, batch))) for at in range(0, batch, most)]


def fill(held: NDArray[Any], values: Values | list[Values]) -> None:
    """Write ``values`` into the first rows, clips, words, ... of ``held``, and zeros beside them."""
    for array, own in zip(places(held, values), values if isinstance(values, list) else (values,), strict=True):
        write(array, own)


def places(held: NDArray[Any], values: Values | list[Values]) -> list[NDArray[Any]]:
    """Where in ``held`` values of these shapes belong: those of each sample of a list, or all of an array. Zeros are
    written beside them.

    The rest has to be written too: what an earlier request left there may be infinite, and infinity times a mask's
    zero is NaN.
    """
    if not isinstance(values, list):
        return [_corner(held, values.shape)]
    held[len(values) :] = 0
    if len(values) == 1:
        return [_corner(held[0], values[0].shape)]
    shapes, inner = [each.shape for each in values], held.shape[2:]
    if all(shape[1:] == inner for shape in shapes):
        held[: len(values), min(shape[0] for shape in shapes) :] = 0
        return [place[: shape[0]] for place, shape in zip(held, shapes, strict=False)]
    held[...] = 0
    return [place[tuple(map(slice, shape))] for place, shape in zip(held, shapes, strict=False)]


def write(array: NDArray[Any], values: Values) -> None:
    """Write values of its shape to an array in its type. Beyond the range of fp16 is infinite."""
    given = values.dtype
    if given is array.dtype:
        array[...] = values
    elif (given is SINGLE and array.dtype is HALF) or (given is HALF and array.dtype is SINGLE):
        import torch  # NumPy converts number by number, thirty times as slow

        torch.from_numpy(array).copy_(torch.from_numpy(values if values.flags.writeable else values.copy()))
    else:
        given = on_host(values)
        with np.errstate(over="ignore"):
            np.copyto(array, given, casting="same_kind")


def twin_of(array: NDArray[Any]) -> "Tensor | None":
    """Memory in fp16, which is mostly written from float32, as a tensor; None for other arrays."""
    import torch

    return torch.from_numpy(array) if array.dtype == np.float16 else None


def _corner(held: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The first rows, clips, words, ... of ``held``; zeros are written beside them."""
    for axis, size in enumerate(shape):
        if size < held.shape[axis]:
            rest = (slice(None),) * axis
            held[(*rest, slice(size, None))] = 0
            held = held[(*rest, slice(size))]
    return held


def stacked(values: Values | list[Values]) -> NDArray[Any]:
    """[B, ...] in host memory, zeros after the end of each sample. A single sample is not copied.

    Raises ValueError: floating point rows that differ in more than their length.
    """
    if not isinstance(values, list):
        return on_host(values)
    rows = [on_host(each) for each in values]
    if len(rows) == 1:
        return rows[0][None]
    if rows[0].dtype.kind == "f" and len({row.shape[1:] for row in rows}) > 1:
        raise ValueError(f"got rows of shapes {sorted({row.shape for row in rows})}, expected one width")
    longest = map(max, zip(*(row.shape for row in rows), strict=True))
    held = np.empty((len(rows), *longest), np.result_type(*{row.dtype for row in rows}))
    fill(held, rows)
    return held


def cut(values: Values, tensor: TensorSpec, sizes: Mapping[str, int]) -> Values:
    """The part of a padded tensor that is real: a view."""
    wanted = tuple([sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes])
    return values if values.shape == wanted else values[tuple([slice(size) for size in wanted])]


def host_dtype(tensor: TensorSpec, storage: str) -> np.dtype[Any]:
    """What a tensor is on the host, where ``float`` is ``storage`` (a precision). NumPy has no bfloat16: float32 there.

    >>> from img_deploy.model.graphs import TensorSpec
    >>> host_dtype(TensorSpec("clip_mask", "bool", ("batch", "clips")), "fp16")
    dtype('bool')
    """
    if tensor.dtype != "float":
        return np.dtype(tensor.dtype)
    return np.dtype("float32" if storage == "bf16" else ELEMENT_TYPES[storage].torch)


def _joined(parts: list[Outputs]) -> Outputs:
    """Outputs of consecutive parts of a batch as those of the batch."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([on_host(part[name]) for part in parts]) for name in parts[0]}
