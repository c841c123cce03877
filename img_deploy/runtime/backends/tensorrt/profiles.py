"""The profiles of a TensorRT engine: which sizes it takes, in ranges that it is tuned for. Needs no TensorRT."""

from collections.abc import Mapping, Sequence

from img_deploy.errors import BackendError
from img_deploy.runtime.backends.buckets import Ladders, Range
from img_deploy.text.vocabulary import MIN_WORD_WIDTH

Profile = Mapping[str, Range]
"""Axis -> smallest, best and largest size."""

BEST_BATCH = 16


def profiles(limits: Mapping[str, int], max_batch: int) -> tuple[dict[str, Range], ...]:
    """The profiles of an engine: one sample, and 2 to ``max_batch``; tuned for the longest inputs.

    Args:
        limits: axis (``clips``, ``words``, ``chars``) -> longest input, as the bundle's manifest has them.
        max_batch: largest batch; 1 gives the first profile alone.
    """
    lengths: dict[str, Range] = {
        axis: (MIN_WORD_WIDTH if axis == "chars" else 1, most, most) for axis, most in limits.items()
    }
    single: dict[str, Range] = {"batch": (1, 1, 1), **lengths}
    if max_batch == 1:
        return (single,)
    return single, {"batch": (2, min(BEST_BATCH, max_batch), max_batch), **lengths}


def ladders(found: Sequence[Profile]) -> Ladders:
    """The sizes that requests are padded to, up to the largest of any profile.

    An execution context whose shapes change has work to do, a captured CUDA graph has one shape, and TensorRT 11.1 and
    11.2 lose memory at every change of shape of an engine with compiled plugins. With few sizes each keeps a context
    of its own.
    """
    most = {axis: max(profile[axis][2] for profile in found) for axis in found[0]}
    return Ladders.up_to(most, most["batch"])


def profile_for(found: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """Index of the first profile that takes these sizes. Raises BackendError: none does."""
    for index, profile in enumerate(found):
        if all(profile[axis][0] <= size <= profile[axis][2] for axis, size in sizes.items()):
            return index
    asked = ", ".join(f"{size} {axis}" for axis, size in sizes.items())
    raise BackendError(f"backend tensorrt: no profile of the engine takes {asked}; build it with --engine max_batch=N")
