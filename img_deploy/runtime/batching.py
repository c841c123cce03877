"""Batches of items of similar length, so that little of a batch is padding.

The answers do not depend on how items are batched; only the time does.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from img_deploy.errors import FeatureError, InputError
from img_deploy.features.checks import Where
from img_deploy.features.paths import each

AHEAD = 4
"""Batches of videos among which similar lengths are looked for."""


def bucket_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Indices of items in batches of similar length, shortest first; each index once.

    Deterministic: items of one length keep their order.

    >>> list(bucket_batches([128, 7, 128, 9, 64], batch_size=2))
    [[1, 3], [4, 0], [2]]
    """
    if batch_size < 1:
        raise InputError(f"batch size: got {batch_size}, expected at least 1")
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return (order[at : at + batch_size] for at in range(0, len(order), batch_size))


class Lengths(Protocol):
    """What is asked of each video before it is read."""

    @property
    def path(self) -> Where:
        """Where the videos lie."""

    def clips(self, vid: str) -> int: ...
    def has_audio(self, vid: str) -> bool: ...


def alike(
    vids: Iterable[str], lengths: Lengths, batch_size: int, refused: Callable[[str, FeatureError], object]
) -> Iterator[list[str]]:
    """Videos in batches of similar length; each begins with the first that is left, so that order is nearly kept.

    Videos with and without sound go to different heads, so in different batches. Deterministic.

    Args:
        refused: told of a video whose length cannot be read; it is left out.
    """
    left = iter(vids)
    ahead: list[tuple[str, int, bool]] = []

    def look(vid: str) -> tuple[str, int, bool] | FeatureError:
        try:
            return vid, lengths.clips(vid), lengths.has_audio(vid)
        except FeatureError as error:
            return error

    while True:
        while some := list(islice(left, AHEAD * batch_size - len(ahead))):
            for vid, facts in zip(some, each(look, some, lengths.path), strict=True):
                if isinstance(facts, FeatureError):
                    refused(vid, facts)
                else:
                    ahead.append(facts)
        if not ahead:
            return
        _, clips, sound = ahead[0]
        order = sorted(range(len(ahead)), key=lambda row: (ahead[row][2] != sound, abs(ahead[row][1] - clips)))
        chosen = set(order[:batch_size])
        yield [vid for row, (vid, _, _) in enumerate(ahead) if row in chosen]
        ahead = [one for row, one in enumerate(ahead) if row not in chosen]
