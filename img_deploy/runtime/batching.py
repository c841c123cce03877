"""Batches of items of similar length, so that little of a batch is padding.

The answers do not depend on how items are batched; only the time does.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")


def bucket_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of items in batches of similar length, shortest first; each index once.

    Deterministic: items of one length keep their order.

    >>> list(bucket_batches([128, 7, 128, 9, 64], batch_size=2))
    [[1, 3], [4, 0], [2]]
    """
    _check_positive("batch_size", batch_size)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return (order[at : at + batch_size] for at in range(0, len(order), batch_size))


def bucket_stream(
    items: Iterable[Item], length: Callable[[Item], int], batch_size: int, window: int = 16
) -> Iterator[list[Item]]:
    """Batches of similar length from a stream of which at most ``window`` batches are held at a time.

    Items are read as batches are asked for. Each window is bucketed by itself as :func:`bucket_batches` does.

    >>> list(bucket_stream(["aaa", "b", "cc", "d", "e"], len, batch_size=2, window=2))
    [['b', 'd'], ['cc', 'aaa'], ['e']]
    """
    _check_positive("batch_size", batch_size)
    _check_positive("window", window)
    stream = iter(items)

    def batches() -> Iterator[list[Item]]:
        while held := list(islice(stream, batch_size * window)):
            for batch in bucket_batches([length(item) for item in held], batch_size):
                yield [held[i] for i in batch]
            del held  # before the next window is read

    return batches()


def pad_stack(
    arrays: Sequence[NDArray[Any]], length: int | None = None, width: int | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Stack arrays of different lengths, zeros after the end of each.

    Args:
        arrays: B arrays [n, ...], of one dtype, alike in every axis but the first.
        length: padded length, by default the longest n.
        width: pad the second axis too, to this width (characters of words); the arrays may then differ in it.

    Returns:
        stacked [B, length, ...] of the arrays' dtype, and the mask [B, length], True at real positions.

    Raises:
        ValueError: no arrays, an array longer or wider than asked for, or arrays that do not fit each other.
    """
    if not len(arrays):
        raise ValueError("got no arrays to stack")
    length = max(len(array) for array in arrays) if length is None else length
    kinds = {(array.dtype, array.shape[1 if width is None else 2 :], array.ndim) for array in arrays}
    if len(kinds) > 1:
        raise ValueError(f"got arrays of different kinds: {', '.join(sorted(map(str, kinds)))}")
    inner = arrays[0].shape[1:] if width is None else (width, *arrays[0].shape[2:])
    stacked = np.zeros((len(arrays), length, *inner), arrays[0].dtype)  # [B, length, ...]
    mask = np.zeros((len(arrays), length), np.bool_)
    for row, array in enumerate(arrays):
        if len(array) > length or (width is not None and array.shape[1] > width):
            raise ValueError(f"got an array {array.shape}, expected at most {(length, *inner)}")
        place = tuple(slice(size) for size in (array.shape if width is None else array.shape[:2]))
        stacked[row][place] = array
        mask[row, : len(array)] = True
    return stacked, mask


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: got {value}, expected at least 1")
