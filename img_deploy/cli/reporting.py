"""What a command tells while it works: lines and a progress bar on standard error."""

import sys
from types import TracebackType
from typing import Any

from img_deploy.cli.progress_bar import progress_bar
from img_deploy.errors import ImgDeployError, one_line
from img_deploy.runtime.encoded import EncodedQuery
from img_deploy.runtime.lots import Listener

MOST_WARNINGS = 5
"""Warnings of a kind that are shown; the others are counted."""


class Reporter(Listener):
    """Listens to a run of queries or to indexing; as a context manager it shows the progress of one stage.

    Args:
        quiet: tell nothing but what is skipped.
        strict: let the first thing that cannot be used stop the run.
        bar: show a progress bar, where standard error is a terminal.
        work: what is done, and the unit it is counted in.
    """

    def __init__(
        self,
        quiet: bool = False,
        strict: bool = False,
        bar: bool = True,
        work: tuple[str, str] = ("answering", "pairs"),
    ) -> None:
        self.quiet, self.strict = quiet, strict
        self._work = work
        self.errors = 0
        """Videos and queries that were skipped."""
        self._unknown: dict[str, None] = {}
        self._queries_with_unknown = self._queries_unknown = self._remarks = 0
        self._bar = bar and not quiet and sys.stderr.isatty()
        self._progress: Any = None
        self._task: Any = None

    def skipped(self, error: ImgDeployError) -> None:
        if self.strict:
            raise error
        self.errors += 1
        self.tell(f"skipped: {error}")

    def remark(self, text: str) -> None:
        self._remarks += 1
        if self._remarks <= MOST_WARNINGS:
            self.note(f"warning: {text}")

    def encoded(self, query: EncodedQuery) -> None:
        if query.cut:
            self.remark(
                f"query {query.query[:40]!r}...: only its first {query.words} words are used, {query.cut} are not"
            )
        if not query.unknown:
            return
        self._unknown.update(dict.fromkeys(query.unknown))
        self._queries_with_unknown += 1
        if not query.all_unknown:
            return
        self._queries_unknown += 1
        if self._queries_unknown <= MOST_WARNINGS:
            words = ", ".join(query.unknown)
            self.note(
                f"warning: query {query.query[:80]!r}: none of its words is known ({words}), so its answer is a guess; "
                "--glove FILE knows more words"
            )

    def begin(self, total: int, done: int) -> None:
        if self._progress is not None:
            what, unit = self._work
            self._task = self._progress.add_task(what, total=total, completed=done, before=done, unit=unit, note="")

    def settled(self, number: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, number)

    def leader(self, text: str) -> None:
        """What leads a ranking, beside the bar."""
        if self._progress is not None:
            self._progress.update(self._task, note=one_line(text))

    def reading(self, done: int, size: int) -> None:
        """So many bytes of a GloVe file are read."""
        if self._progress is not None:
            if self._task is None:
                self._task = self._progress.add_task("reading GloVe", total=size / 1e6, unit="MB", note="")
            self._progress.update(self._task, completed=done / 1e6)

    def note(self, text: str) -> None:
        """A line, unless quiet."""
        if not self.quiet:
            self.tell(text)

    def tell(self, text: str) -> None:
        """A line."""
        text = one_line(text)
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def summary(self) -> None:
        """Notes about what the warnings have not named: further remarks, and words that were not known."""
        if self._remarks > MOST_WARNINGS:
            self.note(f"and {self._remarks - MOST_WARNINGS} more warnings of these kinds")
        if self._queries_with_unknown > min(self._queries_unknown, MOST_WARNINGS):
            words = list(self._unknown)
            some = ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")
            self.note(
                f"{self._queries_with_unknown} queries have words that the vocabulary does not know ({some}), "
                f"{self._queries_unknown} of them no other words; --glove FILE knows more"
            )

    def __enter__(self) -> "Reporter":
        if self._bar:
            self._progress, self._task = progress_bar(), None
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
