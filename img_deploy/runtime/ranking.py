"""The best moments of a whole library, in bounded memory."""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple

from img_deploy.runtime.results import Answer


class _Entry(NamedTuple):
    lift: float
    order: int
    """Falls with every entry, so that of two equal ones the first stays."""
    answer: Answer


class BestMoments:
    """The ``most`` best moments of each query over all videos that were answered so far.

    Ranked by :meth:`Answer.lift`: scores alone favour short videos, whose spans are few.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._heaps: dict[tuple[int | None, str], list[_Entry]] = {}
        self._order = count(0, -1)

    def add(self, answers: Sequence[Answer]) -> bool:
        """Take in answers, each moment for itself; True where a ranking changed."""
        changed = False
        for answer in answers:
            heap = self._heaps.setdefault((answer.qid, answer.query), [])
            for moment in answer.moments:
                entry = _Entry(answer.lift(moment), next(self._order), replace(answer, moments=(moment,)))
                if len(heap) < self.most:
                    heapq.heappush(heap, entry)
                    changed = True
                else:
                    changed |= heapq.heappushpop(heap, entry) is not entry
        return changed

    def ranked(self) -> list[Answer]:
        """Answers of one moment each, query by query, best first; ``rank`` counts from 1."""
        return [
            replace(entry.answer, rank=rank)
            for heap in self._heaps.values()
            for rank, entry in enumerate(sorted(heap, reverse=True), 1)
        ]
