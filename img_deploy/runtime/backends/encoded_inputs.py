"""Encoded clips and words as inputs of a run: gathered where they lie, on the device or on the host."""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from img_deploy.runtime.backends.padded import fill
from img_deploy.runtime.backends.protocol import Feeds

if TYPE_CHECKING:
    from torch import Tensor

ENCODED = ("visual_clips", "audio_clips", "visual_words", "audio_words")
"""What the encoders give and the grounders read."""
HOST_BYTES = 4
"""For each number, in memory on the host: float32 at most."""


class EncodedInputs:
    """Inputs of one width that are written together, in one call however many samples there are.

    Args:
        shapes: [B, L, D] of each input.
        rows: [all of their B * L, D] memory on the device, one input after the other.
        host: bytes on the host, ``HOST_BYTES`` for each number at least. They are copied as they are; where their type
            is not that of ``rows``, the device converts them.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], rows: "Tensor", host: "Tensor") -> None:
        import torch

        self._shapes, self.rows = shapes, rows
        longest = max(clips for _, clips, _ in shapes.values())
        zeros = torch.zeros((longest, rows.shape[1]), dtype=rows.dtype, device=rows.device)
        self._zeros = [zeros[:clips] for clips in range(longest + 1)]
        self.half, self.single = (
            host[: rows.numel() * kind.itemsize].view(kind).view(rows.shape) for kind in (torch.float16, torch.float32)
        )
        """The same memory on the host as either type, like ``rows``."""
        self._half, self._single = (
            {name: held.numpy() for name, held in self.each(memory).items()} for memory in (self.half, self.single)
        )

    def each(self, rows: "Tensor") -> "dict[str, Tensor]":
        """The inputs [B, L, D] by name, of memory like ``rows``: views."""
        parts = rows.split([prod(shape[:-1]) for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def write(self, feeds: Feeds) -> None:
        """Write the values of each input, [b, l, D] or [l, D] of each sample, and zeros beside them."""
        ones = []
        for name in self._shapes:
            values = feeds[name]
            ones += values if isinstance(values, list) else [values]
        if any(not isinstance(one, np.ndarray) for one in ones):
            self._gather(feeds)
            return
        half = all(one.dtype == np.float16 for one in ones)
        for name, held in (self._half if half else self._single).items():
            fill(held, feeds[name])
        self.rows.copy_(self.half if half else self.single, non_blocking=True)

    def _gather(self, feeds: Feeds) -> None:
        import torch

        kind, device, parts = self.rows.dtype, self.rows.device, []
        for name, (batch, clips, width) in self._shapes.items():
            values: Any = feeds[name]
            whole = not isinstance(values, list) and values.shape[1] == clips
            for row in [values.reshape(-1, width)] if whole else values:
                if isinstance(row, np.ndarray) or row.dtype != kind or row.device != device:
                    row = torch.as_tensor(row, dtype=kind, device=device)
                parts.append(row)
                if not whole and len(row) < clips:
                    parts.append(self._zeros[clips - len(row)])
            parts += [self._zeros[clips]] * (batch - len(values))
        torch.cat(parts, out=self.rows)
