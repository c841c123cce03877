"""Answers as a table for people: framed on a terminal, plain aligned lines in a pipe."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from img_deploy.cli.tables import print_table
from img_deploy.errors import one_line
from img_deploy.runtime.results import Answer, Moment, RowKey

TERMINAL_ROWS = 50
"""Rows per query on a terminal, unless told otherwise."""


@dataclass(frozen=True)
class _Row:
    vid: str
    query: str
    qid: int | None
    rank: int
    moment: Moment
    clips: int
    head: str
    importance: float | None
    lift: float


class AnswerTable:
    """Collects answers and prints them at the end; takes the place of a ``RowWriter``.

    Args:
        best_first: order each query's moments over all videos, by how many times likelier than chance they are; else
            keep the order they come in.
        limit: most rows per query; 0 for all; None for all in a pipe and ``TERMINAL_ROWS`` on a terminal.
        stream: where to print; standard output by default.
    """

    done: frozenset[RowKey] = frozenset()

    def __init__(self, best_first: bool = False, limit: int | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._framed = self._stream.isatty()
        self._best_first = best_first
        self._limit = (TERMINAL_ROWS if self._framed else 0) if limit is None else limit
        self._rows: dict[str, list[_Row]] = {}
        self.rows = 0
        """Answers so far."""

    def write(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            group = self._rows.setdefault(answer.query if self._best_first else "", [])
            for rank, moment in enumerate(answer.moments, answer.rank or 1):
                video = (answer.clips, answer.head, answer.importance)
                group.append(_Row(answer.vid, answer.query, answer.qid, rank, moment, *video, answer.lift(moment)))
        self.rows += len(answers)

    def __enter__(self) -> "AnswerTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was computed before an interruption is shown too.
        if self.rows and not (kind and issubclass(kind, BrokenPipeError)):
            self._print()

    def _print(self) -> None:
        shown: list[_Row] = []
        left = 0
        for group in self._rows.values():
            if self._best_first:
                group.sort(key=lambda row: -row.lift)
            kept = group[: self._limit] if self._limit else group
            shown += kept
            left += len(group) - len(kept)
        columns = _columns(shown, self._best_first)
        title = None
        if self._framed and len({row.query for row in shown}) == 1:
            title = columns.pop("query")[0]  # told once instead of in every row
        print_table(columns, _NUMBERS, title, self._stream)
        if left:
            print(f"and {left} rows more (--rows 0 shows all)", file=self._stream)
        self._stream.flush()


_NUMBERS = {"qid", "rank", "start s", "end s", "from", "to", "clips", "of", "score", "x chance", "sound"}


def _columns(rows: Sequence[_Row], lift: bool) -> dict[str, Sequence[str]]:
    """Cells by column name; columns that would say nothing are left out."""
    windows = [row.moment.window for row in rows]
    columns: dict[str, Sequence[str]] = {"video": [one_line(row.vid) for row in rows]}
    if any(row.qid is not None for row in rows):
        columns["qid"] = ["-" if row.qid is None else str(row.qid) for row in rows]
    if any(row.rank > 1 for row in rows):
        columns["rank"] = [str(row.rank) for row in rows]
    if any(windows):
        columns["start s"] = [f"{window[0]:.2f}" if window else "-" for window in windows]
        columns["end s"] = [f"{window[1]:.2f}" if window else "-" for window in windows]
    if not all(windows):
        columns["from"] = [f"{row.moment.fraction[0]:.1%}" for row in rows]
        columns["to"] = [f"{row.moment.fraction[1]:.1%}" for row in rows]
    columns["clips"] = [f"{row.moment.span[0]}-{row.moment.span[1]}" for row in rows]
    columns["of"] = [str(row.clips) for row in rows]
    columns["score"] = [f"{row.moment.score:.4f}" for row in rows]
    if lift:
        columns["x chance"] = [f"{row.lift:.1f}" for row in rows]
    columns["head"] = [row.head for row in rows]
    columns["sound"] = ["-" if row.importance is None else f"{row.importance:.2f}" for row in rows]
    columns["query"] = [one_line(row.query) for row in rows]
    return columns
