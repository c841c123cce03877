"""A graph at fixed sizes on a device. What lies there already is read there; what lies on the host is copied to it.

Everything that a run asks of the device goes to one stream, in order: inputs, graph, outputs. Memory on the host is
written again, and tensors that stay on the device are handed out, only after :meth:`DeviceRun.wait`: whatever reads
them on another stream comes later. The copies of a run on one stream overlap with the graph of a run on another.
Not yet run on a GPU; on a CPU, PyTorch's own memory stands in for the device's.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.buckets import Bucket
from img_deploy.runtime.backends.padded import cut, fill
from img_deploy.runtime.backends.protocol import Feeds, Outputs, Values

if TYPE_CHECKING:
    from torch import Tensor


class DeviceRun:
    """A run of :func:`~img_deploy.runtime.backends.padded.run_padded` on a device. For one thread at a time.

    Args:
        spec: the graph; bucket: its sizes.
        inputs: memory on the device for each input that is used.
        host: memory on the host for each of them, in a type that NumPy has.
        back: float32 memory on the host, of :func:`columns` elements for each sample of the bucket at least.
    """

    def __init__(
        self,
        spec: GraphSpec,
        bucket: Bucket,
        inputs: "Mapping[str, Tensor]",
        host: "Mapping[str, Tensor]",
        back: "Tensor",
    ) -> None:
        self.spec, self.bucket, self.inputs, self._host = spec, bucket, inputs, host
        self._arrays = {name: tensor.numpy() for name, tensor in host.items()}
        batch = dict(bucket.sizes)["batch"]
        self._back = back[: batch * columns(spec, bucket)].view(batch, -1)
        self._brought = self._back.numpy()
        self._columns: list[tuple[str, int, str | None]] = []
        """Of each output that goes to the host: its first column, and the axis of its columns, if it has several."""
        at = 0
        for tensor in spec.outputs:
            if not stays(tensor):
                self._columns.append((tensor.name, at, str(tensor.axes[1]) if tensor.axes[1:] else None))
                at += prod(bucket.shape(tensor)[1:])

    def __call__(self, feeds: Feeds, sizes: Mapping[str, int]) -> Outputs:
        """Outputs of samples that fit the bucket, of the sizes that they have."""
        import torch

        with self.on_stream():
            there = [name for name in self.inputs if _on_device(feeds[name])]
            for name, held in self.inputs.items():
                if name not in there:
                    fill(self._arrays[name], feeds[name])
                    held.copy_(self._host[name], non_blocking=True)
            for name in there:
                mask = self.inputs["clip_mask" if name.endswith("clips") else "word_mask"]
                place(self.inputs[name], feeds[name], mask)
            out: Outputs = {}
            going = []
            for tensor, values in zip(self.spec.outputs, self.compute(), strict=True):
                if stays(tensor):
                    out[tensor.name] = cut(values, tensor, sizes).clone()
                else:
                    going.append(values if tensor.axes[1:] else values[:, None])
            if going:
                self._back.copy_(torch.cat(going, dim=1), non_blocking=True)
        self.wait()
        brought = self._brought[: sizes["batch"]].copy()
        for name, at, axis in self._columns:
            out[name] = brought[:, at : at + sizes[axis]] if axis else brought[:, at]
        return out

    def on_stream(self) -> AbstractContextManager[Any]:
        """The context in which work goes to this run's stream."""
        return nullcontext()

    def compute(self) -> "Sequence[Tensor]":
        """From ``inputs`` to outputs on the device, in the graph's order; the next call may overwrite them."""
        raise NotImplementedError

    def wait(self) -> None:
        """Until everything on the stream is done."""


def stays(tensor: TensorSpec) -> bool:
    """Whether an output stays on the device: encoded clips and words, which a later run reads."""
    return tensor.dtype == "float"


def columns(spec: GraphSpec, bucket: Bucket) -> int:
    """Numbers of a sample that a graph gives the host: [B] or [B, L] of its outputs."""
    return sum(prod(bucket.shape(tensor)[1:]) for tensor in spec.outputs if not stays(tensor))


def _on_device(values: Values | list[Values]) -> bool:
    return any(not isinstance(each, np.ndarray) for each in (values if isinstance(values, list) else [values]))


def place(held: "Tensor", values: Values | list[Values], mask: "Tensor") -> None:
    """Write ``values`` into ``held`` [B, L, D], and zeros beside them, without a copy to the host.

    Args:
        values: [b, l, D]; or [l, D] of each sample, tensors or arrays, as long as ``mask`` [B, L] on the device says.
    """
    if isinstance(values, list) and len(values) > 1:
        import torch

        # In three launches, however many samples: the mask is True where they go, in their order.
        rows = [torch.as_tensor(one, dtype=held.dtype, device=held.device) for one in values]
        held.zero_().masked_scatter_(mask[..., None], torch.cat(rows))
        return
    batch = values[0][None] if isinstance(values, list) else values
    real = held if batch.shape == held.shape else held.zero_()[: batch.shape[0], : batch.shape[1]]
    real.copy_(batch, non_blocking=True)
