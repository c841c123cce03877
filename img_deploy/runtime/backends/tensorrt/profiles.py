"""The profiles of a TensorRT engine: which sizes it takes, in ranges that it is tuned for. Needs no TensorRT."""

from collections.abc import Mapping, Sequence

from img_deploy.errors import BackendError
from img_deploy.runtime.backends.buckets import Ladders, Range
from img_deploy.text.vocabulary import MIN_WORD_WIDTH

Profile = Mapping[str, Range]
"""Axis -> smallest, best and largest size."""

BEST_BATCH = 16
MOST_IN_BATCH = {"words": 64, "chars": 32}
"""Longest query and word of a profile for several samples: an engine takes scratch memory for the largest sizes of any
profile. Longer ones are run alone."""


def profiles(limits: Mapping[str, int], max_batch: int) -> tuple[dict[str, Range], ...]:
    """The profiles of an engine: one sample of any length, and 2 to ``max_batch`` samples of the usual lengths.

    Both are tuned for their longest inputs.

    Args:
        limits: axis (``clips``, ``words``, ``chars``) -> longest input, as the bundle's manifest has them.
        max_batch: largest batch; 1 gives the first profile alone.
    """

    def lengths(most: Mapping[str, int]) -> dict[str, Range]:
        return {axis: (MIN_WORD_WIDTH if axis == "chars" else 1, size, size) for axis, size in most.items()}

    single: dict[str, Range] = {"batch": (1, 1, 1), **lengths(limits)}
    if max_batch == 1:
        return (single,)
    usual = {axis: min(most, MOST_IN_BATCH.get(axis, most)) for axis, most in limits.items()}
    return single, {"batch": (2, min(BEST_BATCH, max_batch), max_batch), **lengths(usual)}


def ladders(found: Sequence[Profile]) -> Ladders:
    """The sizes that requests are padded to, up to the largest of any profile.

    An execution context whose shapes change has work to do, a captured CUDA graph has one shape, and TensorRT 11.1 and
    11.2 lose memory at every change of shape of an engine with compiled plugins. With few sizes each keeps a context
    of its own.
    """
    most = {axis: max(profile[axis][2] for profile in found) for axis in found[0]}
    return Ladders.up_to(most, most["batch"])


def most_samples(found: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """Largest batch that a profile takes at these lengths; 1 where they fit none."""
    fitting = (
        profile["batch"][2]
        for profile in found
        if all(profile[axis][0] <= size <= profile[axis][2] for axis, size in sizes.items() if axis != "batch")
    )
    return max(fitting, default=1)


def profile_for(found: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """Index of the first profile that takes these sizes. Raises BackendError: none does."""
    for index, profile in enumerate(found):
        if all(profile[axis][0] <= size <= profile[axis][2] for axis, size in sizes.items()):
            return index
    asked = ", ".join(f"{size} {axis}" for axis, size in sizes.items())
    raise BackendError(f"backend tensorrt: no profile of the engine takes {asked}; build it with --engine max_batch=N")
