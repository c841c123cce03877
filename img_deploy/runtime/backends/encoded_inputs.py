"""Encoded clips and words as inputs of a run: gathered where they lie, on the device or on the host."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from img_deploy.model.graphs import GraphSpec, TensorSpec
from img_deploy.runtime.backends.padded import fill
from img_deploy.runtime.backends.protocol import Values

if TYPE_CHECKING:
    from torch import Tensor

ENCODED = ("visual_clips", "audio_clips", "visual_words", "audio_words")
"""What the encoders give and the grounders read."""
HOST_BYTES = 4
"""For each number, in memory on the host: float32 at most."""


class EncodedInputs:
    """Inputs of one shape that are written together, in one call however many samples there are.

    Args:
        names: of the inputs.
        held: [len(names), B, L, D] memory on the device, one input after the other.
        host: bytes on the host, ``HOST_BYTES`` for each number at least. They are copied as they are; where their type
            is not that of ``held``, the device converts them.
    """

    def __init__(self, names: Sequence[str], held: "Tensor", host: "Tensor") -> None:
        import torch

        self.names, self.held = names, held
        self._rows = held.view(-1, held.shape[-1])
        zeros = torch.zeros(held.shape[2:], dtype=held.dtype, device=held.device)
        self._zeros = [zeros[:clips] for clips in range(len(zeros) + 1)]
        self.half, self.single = (
            host[: held.numel() * kind.itemsize].view(kind).view(held.shape) for kind in (torch.float16, torch.float32)
        )
        """[len(names), B, L, D]: the same memory on the host as either type."""

    def write(self, values: Sequence[Values | list[Values]]) -> None:
        """Write the values of each input, and zeros beside them.

        Args:
            values: of each input [b, l, D], or [l, D] of each sample; tensors or arrays.
        """
        ones = [one for each in values for one in (each if isinstance(each, list) else [each])]
        if any(not isinstance(one, np.ndarray) for one in ones):
            self._gather(values)
            return
        memory = self.half if all(one.dtype == np.float16 for one in ones) else self.single
        for array, each in zip(memory.numpy(), values, strict=True):
            fill(array, each)
        self.held.copy_(memory, non_blocking=True)

    def _gather(self, values: Sequence[Values | list[Values]]) -> None:
        import torch

        kind, device, (_, batch, clips, width) = self.held.dtype, self.held.device, self.held.shape
        parts = []
        for each in values:
            rows = list(each) if isinstance(each, list) or each.shape[1] < clips else [each.reshape(-1, width)]
            for row in rows:
                if isinstance(row, np.ndarray) or row.dtype != kind or row.device != device:
                    row = torch.as_tensor(row, dtype=kind, device=device)
                parts.append(row)
                if row.shape[0] < clips:
                    parts.append(self._zeros[clips - row.shape[0]])
            parts += [self._zeros[clips]] * (batch - len(each))
        torch.cat(parts, out=self._rows)


def encoded_by_axis(spec: GraphSpec) -> list[list[TensorSpec]]:
    """The encoded inputs of a graph: its clips, then its words."""
    own = [tensor for tensor in spec.inputs if tensor.name in ENCODED]
    groups = ([tensor for tensor in own if tensor.axes[1] == axis] for axis in ("clips", "words"))
    return [group for group in groups if group]
