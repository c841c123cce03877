"""The best moments of a whole library, in bounded memory."""

import heapq
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import NamedTuple, Protocol

from img_deploy.runtime.results import Answer, RowKey


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

    def leader(self) -> Answer:
        """The best moment of the first query."""
        return max(next(iter(self._heaps.values()))).answer


class Writer(Protocol):
    """A ``RowWriter``, or what takes its place."""

    def write(self, answers: Sequence[Answer]) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class BestWriter:
    """Hands the best moments of each query to another writer, once all answers are in."""

    done: frozenset[RowKey] = frozenset()

    def __init__(self, writer: Writer, most: int) -> None:
        self._writer, self._best = writer, BestMoments(most)
        self.rows = 0
        """Answers so far."""

    def write(self, answers: Sequence[Answer]) -> None:
        self.rows += len(answers)
        self._best.add(answers)

    def leader(self) -> str:
        """The best moment so far of the first query, for people."""
        best = self._best.leader()
        window = best.best.window
        place = f"{window[0]:.1f}-{window[1]:.1f} s" if window else f"clips {best.best.span[0]}-{best.best.span[1]}"
        return f"best so far: {best.vid} {place}, {best.lift(best.best):.1f} x chance"

    def __enter__(self) -> "BestWriter":
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # What was ranked before an interruption is shown too, as far as it goes.
            if kind is None or not issubclass(kind, BrokenPipeError):
                self._writer.write(self._best.ranked())
        except BaseException as failed:
            kind, error, trace = type(failed), failed, failed.__traceback__
            raise
        finally:
            self._writer.__exit__(kind, error, trace)
