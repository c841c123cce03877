"""A run of questions as a command shows it: notes, progress, answers, and how to go on after an interruption."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from img_deploy.cli.reporting import Reporter
from img_deploy.errors import ImgDeployError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from img_deploy.cli.answer_table import AnswerTable
    from img_deploy.runtime.asking import Session
    from img_deploy.runtime.request import Request
    from img_deploy.runtime.results import Answer, RowKey
    from img_deploy.runtime.writers import RowWriter

TABLE = "table"
SUFFIXES = {".jsonl": "jsonl", ".csv": "csv", ".json": "json"}


@dataclass(frozen=True)
class Output:
    """Where answers go. ``format`` None: a table, or what the name of ``out`` ends in, or jsonl."""

    out: Path | None = None
    format: str | None = None
    table_rows: int | None = None
    resume: bool = False
    best: int | None = None
    """The so many best moments of each query over all videos, instead of an answer for each video."""

    @property
    def chosen(self) -> str:
        """Raises InputError for a table in a file, and for resuming what is not a jsonl file."""
        format = self.format or (TABLE if self.out is None else SUFFIXES.get(self.out.suffix, "jsonl"))
        if format == TABLE and self.out is not None:
            raise InputError(f"{self.out}: got a table to write, expected jsonl, csv or json; give another --format")
        if format == TABLE and self.resume:
            raise InputError("resume: only a jsonl file can be resumed; give --format jsonl and --out FILE")
        if self.best is not None and self.resume:
            raise InputError(
                "resume: a ranking (--best) is written at the end, there is nothing to go on with; drop --resume"
            )
        return format

    def writer(self, session: "Session") -> "AnswerTable | RowWriter | BestWriter":
        """Raises InputError where it cannot be written."""
        from img_deploy.cli.answer_table import AnswerTable
        from img_deploy.runtime.writers import RowWriter

        writer: AnswerTable | RowWriter
        if self.chosen == TABLE:
            search = bool(session.plan.shared) and len(session.plan.videos) > 1
            writer = AnswerTable(best_first=search or self.best is not None, limit=self.table_rows)
        else:
            sources = session.sources() if self.out is not None and self.best is None else None
            settings = session.settings()
            writer = RowWriter(self.out, self.chosen, resume=self.resume, settings=settings, sources=sources)
        return writer if self.best is None else BestWriter(writer, self.best)


class BestWriter:
    """Hands the best moments of each query to another writer, once all answers are in."""

    done: frozenset["RowKey"] = frozenset()

    def __init__(self, writer: "AnswerTable | RowWriter", most: int) -> None:
        from img_deploy.runtime.ranking import BestMoments

        self._writer, self._best = writer, BestMoments(most)
        self.rows = 0
        """Answers so far."""

    def write(self, answers: "Sequence[Answer]") -> None:
        self.rows += len(answers)
        self._best.add(answers)

    def leader(self) -> str:
        """The best moment so far of the first query, for people."""
        best = self._best.ranked()[0]
        window = best.best.window
        place = f"{window[0]:.1f}-{window[1]:.1f} s" if window else f"clips {best.best.span[0]}-{best.best.span[1]}"
        return f"best so far: {best.vid} {place}, {best.lift(best.best):.1f} x chance"

    def __enter__(self) -> "BestWriter":
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was ranked before an interruption is shown too, as far as it goes.
        if kind is None or not issubclass(kind, BrokenPipeError):
            self._writer.write(self._best.ranked())
        self._writer.__exit__(kind, error, trace)


def answer(request: "Request", output: Output, strict: bool = False, quiet: bool = False) -> None:
    """Answer a request, and tell on standard error how it goes.

    Raises:
        InputError: something is wrong with the request, nothing could be answered, or (``strict``) something was
            not usable.
        BackendError: the backend failed. Answers so far are in ``OUT.partial`` (jsonl) or in the table.
    """
    from img_deploy.runtime.asking import open_session

    on_terminal = output.out is None and sys.stdout.isatty() and output.chosen != TABLE  # a bar would tear the rows
    reporter = Reporter(quiet=quiet, strict=strict, bar=not on_terminal)
    with reporter:
        session = open_session(request, reporter.reading)
    for note in session.notes():
        reporter.note(note)
    if strict and session.plan.missing:
        raise InputError(f"--strict: {session.plan.notes[-1]}")
    # Of a single pair nothing is left when it is skipped: what is wrong with it is the answer.
    reporter.strict = strict or len(session.plan) == 1
    try:
        _write_answers(session, output, reporter)
    except (KeyboardInterrupt, ImgDeployError):
        partial = output.out and output.out.with_name(f"{output.out.name}.partial")
        if partial and partial.exists() and output.chosen == "jsonl":
            reporter.tell(f"stopped: the answers so far are in {partial}; run the same command with --resume to go on")
        raise


def _write_answers(session: "Session", output: Output, reporter: Reporter) -> None:
    total, begin = len(session.plan), time.perf_counter()
    with output.writer(session) as writer, reporter:
        reporter.begin(total, len(writer.done))
        for answers in session.answers(writer.done, reporter):
            writer.write(answers)
            if isinstance(writer, BestWriter):
                reporter.leader(writer.leader())
        if not writer.rows:
            raise InputError(f"nothing could be answered: all {total} pairs of a video and a query were skipped")
    took, new = time.perf_counter() - begin, writer.rows - len(writer.done)
    reporter.summary()
    for what, why in session.workers.notes().items():
        reporter.note(f"note: {what}: {why}")
    before = f" ({len(writer.done)} before)" if writer.done else ""
    skipped = f"; {reporter.errors} videos or queries skipped" if reporter.errors else ""
    place = f"; written to {output.out}" if output.out else ""
    speed = f"{took:.1f} s ({new / took:,.1f}/s)"
    reporter.note(f"{writer.rows} of {total} pairs answered{before} in {speed}{skipped}{place}")
