"""A graph at fixed sizes on a device. What lies there already is read there; what lies on the host is copied to it.

Everything that a run asks of the device goes to one stream, in order: inputs, graph, outputs. The copies of a run on
one stream overlap with the graph of a run on another. Memory on the host is written again only when the run that reads
it is done. On a CPU, PyTorch's own memory stands in for the device's, and every run takes the same path.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.buckets import Bucket, shape_of
from img_deploy.runtime.backends.encoded_inputs import EncodedInputs
from img_deploy.runtime.backends.padded import SINGLE, cut, places, twin_of, write
from img_deploy.runtime.backends.protocol import FAULTS, Feeds, Outputs, Values

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
        import torch

        self._from_numpy, self._copy_all = torch.from_numpy, torch._foreach_copy_
        self.spec, self.bucket = spec, bucket
        self.arrays, self.copies, self.encoded = arrays, copies, encoded
        self._places: list[tuple[str, int | None, NDArray[Any], np.dtype[Any], Tensor | None]] = []
        self._filled: Mapping[str, int] | None = None
        """Sizes whose zeros lie beside the places of ``arrays``."""
        self._results: dict[str, NDArray[Any]] = {}
        """Of each output that goes to the host: where it lies at those sizes."""
        self._checked: NDArray[np.float32]
        """Those of them that are float32."""
        self._no_faults: NDArray[np.bool_]
        self.back = back[: room(spec, bucket)].view(dict(bucket.sizes)["batch"], -1)
        self._staying = [tensor for tensor in spec.outputs if stays(tensor)]

    def __call__(self, feeds: Feeds, sizes: Mapping[str, int]) -> Outputs:
        """Outputs of samples that fit the bucket, of the sizes that they have."""
        self.wait()  # the run before may still read the memory that is filled now
        if sizes is not self._filled:
            self._places = [
                (name, sample if isinstance(feeds[name], list) else None, array, array.dtype, twin_of(array))
                for name, held in self.arrays.items()
                for sample, array in enumerate(places(held, feeds[name]))
            ]
            self._results, self._checked = results_of(self.spec, self.bucket, sizes, self.back.numpy())
            self._no_faults = np.broadcast_to(np.False_, sizes["batch"])
            self._filled = sizes
        twins, given = [], []  # for PyTorch to round, all in one call
        for name, sample, array, dtype, twin in self._places:
            values: Values = feeds[name] if sample is None else feeds[name][sample]
            if values.dtype is dtype:
                array[...] = values
            elif twin is not None and values.dtype is SINGLE and values.flags.writeable:
                twins.append(twin)
                given.append(self._from_numpy(values))
            else:
                write(array, values)
        if twins:
            self._copy_all(twins, given)
        kept = self.start(feeds)
        self.finish(kept)
        out: Outputs = {name: values.copy() for name, values in self._results.items()}
        if kept is None:
            real = np.isfinite(self._checked)
            out[FAULTS] = self._no_faults if np.count_nonzero(real) == real.size else ~real.all(axis=1)
        else:
            for tensor, one in zip(self._staying, kept.unbind(), strict=True):
                out[tensor.name] = cut(one, tensor, sizes)
        return out

    def start(self, feeds: Feeds) -> "Tensor | None":
        """Ask the device for everything, on this run's stream. Returns what stays on the device."""
        for each in self.encoded:
            each.write(feeds)
        staying = self.launch()
        return None if staying is None else staying.clone()  # the next run overwrites it

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


def room(spec: GraphSpec, bucket: Bucket) -> int:
    """Elements of float32 memory that hold what a graph gives the host."""
    return dict(bucket.sizes)["batch"] * sum(_width(tensor, bucket.shape(tensor)) for tensor in brought(spec))


def results_of(
    spec: GraphSpec, bucket: Bucket, sizes: Mapping[str, int], memory: NDArray[np.float32]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.float32]]:
    """Each of them by name, as it lies in memory [B, .], and together those that are float32: views."""
    found, at, floats = {}, 0, 0
    for tensor in brought(spec):
        columns: Any = slice(at, at + _width(tensor, shape_of(tensor, sizes))) if tensor.axes[1:] else at
        found[tensor.name] = memory[: sizes["batch"], columns].view(tensor.dtype)
        at += _width(tensor, bucket.shape(tensor))
        floats = at if tensor.dtype == "float32" else floats
    return found, memory[: sizes["batch"], :floats]


def _width(tensor: TensorSpec, shape: tuple[int, ...]) -> int:
    """Columns of a tensor of this shape."""
    return prod(shape[1:]) * np.dtype(tensor.dtype).itemsize // np.dtype(np.float32).itemsize
