"""Host side of a run at fixed sizes: inputs are filled into buffers that stay where they are, outputs cut out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.base import Feeds, Outputs
from img_deploy.runtime.backends.batch_limit import watched
from img_deploy.runtime.backends.buckets import Bucket, shape_of
from img_deploy.runtime.backends.packed_network import PackedNetwork


def buffers(tensors: tuple[TensorSpec, ...], bucket: Bucket, storage: torch.dtype, pinned: bool) -> dict[str, Tensor]:
    """Zeroed host memory for a graph's inputs or outputs, by name; ``pinned`` where a GPU copies from and to it."""
    return {
        tensor.name: torch.zeros(bucket.shape(tensor), dtype=dtype_of(tensor, storage), pin_memory=pinned)
        for tensor in tensors
    }


def dtype_of(tensor: TensorSpec, storage: torch.dtype) -> torch.dtype:
    """``float`` of a graph's declaration is the storage dtype."""
    dtype: torch.dtype = storage if tensor.dtype == "float" else getattr(torch, tensor.dtype)
    return dtype


def fill(buffer: Tensor, values: NDArray[Any]) -> None:
    """Write ``values`` into the first rows, clips, words, ... of ``buffer``, and zeros beside them.

    The rest has to be written too: what an earlier request left there may be infinite, and infinity times a mask's
    zero is NaN.
    """
    region = buffer
    for axis, size in enumerate(values.shape):
        region.narrow(axis, size, region.shape[axis] - size).zero_()
        region = region.narrow(axis, 0, size)
    region.copy_(torch.from_numpy(np.require(values, requirements=["C", "W"])))


def fill_all(held: Mapping[str, Tensor], feeds: Feeds, rows: slice) -> None:
    """:func:`fill` each buffer with those rows of its input."""
    for name, buffer in held.items():
        fill(buffer, feeds[name][rows])


def cut_all(spec: GraphSpec, held: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Outputs:
    """The real part of each output, a copy. bfloat16, which NumPy has not, becomes float32."""
    return {tensor.name: _cut(held[tensor.name], shape_of(tensor, sizes)) for tensor in spec.outputs}


def _cut(buffer: Tensor, shape: tuple[int, ...]) -> NDArray[Any]:
    real = buffer[tuple(slice(size) for size in shape)]
    real = real.float() if real.dtype == torch.bfloat16 else real
    found: NDArray[Any] = real.numpy().copy()
    return found


class StaticRun:
    """One graph of the network at fixed sizes; computes on the host, without a capture. For one thread at a time.

    What a captured run is on a GPU, for machines without one: the same buffers, padding and kernels.
    """

    def __init__(self, packed: PackedNetwork, spec: GraphSpec, bucket: Bucket, pinned: bool = False) -> None:
        self.packed, self.spec = packed, spec
        self.host_in = buffers(spec.inputs, bucket, packed.storage, pinned)
        self.host_out = buffers(spec.outputs, bucket, packed.storage, pinned)

    def __call__(self, feeds: Feeds, rows: slice, sizes: Mapping[str, int]) -> Outputs:
        """Outputs for those rows of the feeds. ``sizes`` are the real ones of the part. Raises OutOfMemory."""
        fill_all(self.host_in, feeds, rows)
        with watched():
            self.compute()
        return cut_all(self.spec, self.host_out, sizes)

    def compute(self) -> None:
        """From ``host_in`` to ``host_out``."""
        outputs = self.packed(self.spec.name, list(self.host_in.values()))
        for buffer, value in zip(self.host_out.values(), outputs, strict=True):
            buffer.copy_(value)


def join(spec: GraphSpec, parts: list[Outputs]) -> Outputs:
    """Outputs of consecutive parts of a batch as those of the batch."""
    if len(parts) == 1:
        return parts[0]
    return {tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in spec.outputs}
