"""Requests of any size on runs of fixed sizes: padded to a bucket, run, and cut to what is real."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.buckets import Bucket, Ladders, shape_of, sizes_of
from img_deploy.runtime.backends.protocol import Feeds, Outputs

Arrays = Mapping[str, NDArray[Any]]
Part = Callable[[slice], Outputs]


class FixedRun(Protocol):
    """A graph at the sizes of one bucket. For one thread at a time."""

    @property
    def inputs(self) -> Arrays:
        """Memory on the host that the next call reads, at the bucket's sizes."""

    def __call__(self) -> Arrays:
        """Outputs at the bucket's sizes, valid until the next call."""


def run_padded(
    spec: GraphSpec,
    ladders: Ladders,
    feeds: Feeds,
    open_run: Callable[[Bucket], FixedRun],
    in_parts: Callable[[int, Part], list[Outputs]] | None = None,
) -> Outputs:
    """Outputs of a batch of any size, in as many runs as it takes.

    Args:
        spec: the graph.
        ladders: the sizes that it runs at.
        feeds: its inputs.
        open_run: gives the run of a bucket.
        in_parts: calls a function with consecutive rows of so many samples; by default, the largest batch at a time.

    Raises:
        BackendError: inputs that do not fit the graph or the ladders, beside what the runs raise.
    """
    sizes = sizes_of(spec, feeds)
    ladders.bucket(spec.name, {**sizes, "batch": min(sizes["batch"], 1)})  # refuses what is too long, or nothing

    def part(rows: slice) -> Outputs:
        own = {**sizes, "batch": rows.stop - rows.start}
        run = open_run(ladders.bucket(spec.name, own))
        for name, held in run.inputs.items():
            fill(held, feeds[name][rows])
        outputs = run()
        return {tensor.name: _real(outputs[tensor.name], shape_of(tensor, own)) for tensor in spec.outputs}

    return _joined((in_parts or parts_of(ladders.most("batch")))(sizes["batch"], part))


def parts_of(most: int) -> Callable[[int, Part], list[Outputs]]:
    """At most so many samples at a time."""
    return lambda batch, part: [part(slice(at, min(at + most, batch))) for at in range(0, batch, most)]


def fill(held: NDArray[Any], values: NDArray[Any]) -> None:
    """Write ``values`` into the first rows, clips, words, ... of ``held``, and zeros beside them.

    The rest has to be written too: what an earlier request left there may be infinite, and infinity times a mask's
    zero is NaN.
    """
    real: tuple[slice, ...] = ()
    for size, room in zip(values.shape, held.shape, strict=True):
        if size < room:
            held[(*real, slice(size, None))] = 0
        real = (*real, slice(size))
    if (held.dtype, values.dtype) == (np.float16, np.float32):
        import torch  # NumPy converts number by number, thirty times as slow

        torch.from_numpy(held[real]).copy_(torch.from_numpy(np.require(values, requirements="W")))
        return
    with np.errstate(over="ignore"):  # beyond the range of fp16 is infinite
        np.copyto(held[real], values, casting="same_kind")


def host_dtype(tensor: TensorSpec, storage: str) -> np.dtype[Any]:
    """What a tensor is on the host, where ``float`` is ``storage`` (a precision). NumPy has no bfloat16: float32 there.

    >>> from img_deploy.model.graphs import TensorSpec
    >>> host_dtype(TensorSpec("clip_mask", "bool", ("batch", "clips")), "fp16")
    dtype('bool')
    """
    if tensor.dtype != "float":
        return np.dtype(tensor.dtype)
    return np.dtype("float32" if storage == "bf16" else ELEMENT_TYPES[storage].torch)


def _real(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return values[tuple(slice(size) for size in shape)].copy()


def _joined(parts: list[Outputs]) -> Outputs:
    """Outputs of consecutive parts of a batch as those of the batch."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
