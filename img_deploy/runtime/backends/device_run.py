"""A graph at fixed sizes on a device. What lies there already is read there; what lies on the host is copied to it.

Everything that a run asks of the device goes to one stream, in order: inputs, graph, outputs. The copies of a run on
one stream overlap with the graph of a run on another. Memory on the host is written again only when the run that reads
it is done. On a CPU, PyTorch's own memory stands in for the device's, and every run takes the same path.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.buckets import Bucket
from img_deploy.runtime.backends.encoded_inputs import EncodedInputs
from img_deploy.runtime.backends.padded import cut, fill
from img_deploy.runtime.backends.protocol import FAULTS, Feeds, Outputs

if TYPE_CHECKING:
    from torch import Tensor


class DeviceRun:
    """A run of :func:`~img_deploy.runtime.backends.padded.run_padded` on a device. For one thread at a time.

    Args:
        spec: the graph; bucket: its sizes.
        arrays: memory on the host for each input that always comes from there.
        copies: (memory on the device, memory on the host) of what is copied to the device before every run.
        encoded: the other inputs: encoded clips and words.
        back: float32 memory on the host, enough for what :func:`brought` goes there.
    """

    def __init__(
        self,
        spec: GraphSpec,
        bucket: Bucket,
        arrays: Mapping[str, NDArray[Any]],
        copies: "Sequence[tuple[Tensor, Tensor]]",
        encoded: Sequence[EncodedInputs],
        back: "Tensor",
    ) -> None:
        self.spec, self.bucket = spec, bucket
        self.arrays, self.copies, self.encoded = arrays, copies, encoded
        self._row = row_of(spec, bucket)
        self.back = back[: room(spec, bucket)].view(dict(bucket.sizes)["batch"], -1)
        self._brought = self.back.numpy()
        self._going = [(each.name, each.axes[1] if each.axes[1:] else None) for each in brought(spec)]
        """Of each output that goes to the host: its name, and the axis of its columns, if it has any."""
        self._floats = sum(prod(bucket.shape(each)[1:]) for each in brought(spec) if each.dtype == "float32")
        self._staying = [tensor for tensor in spec.outputs if stays(tensor)]

    def __call__(self, feeds: Feeds, sizes: Mapping[str, int]) -> Outputs:
        """Outputs of samples that fit the bucket, of the sizes that they have."""
        self.wait()  # the run before may still read the memory that is filled now
        for name, held in self.arrays.items():
            fill(held, feeds[name])
        kept = None
        with self.on_stream():
            for each in self.encoded:
                each.write(feeds)
            staying = self.launch()
            if staying is not None:
                kept = staying.clone()  # the next run overwrites it
        self.finish(kept)
        out: Outputs = {}
        if kept is not None:
            for tensor, one in zip(self._staying, kept.unbind(), strict=True):
                out[tensor.name] = cut(one, tensor, sizes)
        host = self._brought[: sizes["batch"]].copy()
        row = host.view(self._row)[:, 0]
        for name, axis in self._going:
            values = row[name]
            out[name] = values[:, : sizes[axis]] if isinstance(axis, str) else values
        if not self._staying:
            out[FAULTS] = ~np.logical_and.reduce(np.isfinite(host[:, : self._floats]), axis=1)
        return out

    def on_stream(self) -> AbstractContextManager[Any]:
        """The context in which work goes to this run's stream."""
        return nullcontext()

    def launch(self) -> "Tensor | None":
        """Everything on the stream from memory on the host to memory on the host. Returns what stays on the device, one
        output after the other; the next run may overwrite it."""
        import torch

        for there, here in self.copies:
            there.copy_(here, non_blocking=True)
        going, staying, kept = [], [], None
        for tensor, values in zip(self.spec.outputs, self.compute(), strict=True):
            if stays(tensor):
                staying.append(values)
            else:
                values = values if tensor.axes[1:] else values[:, None]
                going.append(values if tensor.dtype == "float32" else values.view(torch.float32))  # the same bytes
        if staying:
            kept = torch.stack(staying)  # [., B, L, D]
            going.append((kept * 0).sum(dim=(0, 3), dtype=torch.float32))  # NaN where one is no number
        self.back.copy_(torch.cat(going, dim=1), non_blocking=True)
        return kept

    def compute(self) -> "Sequence[Tensor]":
        """From inputs to outputs on the device, in the graph's order; the next call may overwrite them."""
        raise NotImplementedError

    def finish(self, kept: "Tensor | None") -> None:  # noqa: ARG002
        """Until what goes to the host is there, and ``kept``, made on this run's stream, may be read by others."""
        self.wait()

    def wait(self) -> None:
        """Until everything that this run asked of the device is done."""


def stays(tensor: TensorSpec) -> bool:
    """Whether an output stays on the device: encoded clips and words, which a later run reads."""
    return tensor.dtype == "float"


def brought(spec: GraphSpec) -> list[TensorSpec]:
    """What a graph gives the host, [B] or [B, .]: outputs, and ``FAULTS`` of those that stay on the device. Those of
    float32 come first."""
    staying = [tensor for tensor in spec.outputs if stays(tensor)]
    faults = [TensorSpec(FAULTS, "float32", tensor.axes[:2]) for tensor in staying[:1]]
    return [tensor for tensor in spec.outputs if not stays(tensor)] + faults


def row_of(spec: GraphSpec, bucket: Bucket) -> "np.dtype[Any]":
    """What a graph gives the host of one sample, as one NumPy record."""
    return np.dtype([(each.name, each.dtype, bucket.shape(each)[1:]) for each in brought(spec)])


def room(spec: GraphSpec, bucket: Bucket) -> int:
    """Elements of float32 memory that hold :func:`row_of` of each sample."""
    return int(dict(bucket.sizes)["batch"] * row_of(spec, bucket).itemsize // np.dtype(np.float32).itemsize)
