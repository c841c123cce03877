"""Answers to a file or to standard output, as jsonl, csv or json."""

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from img_deploy.errors import ImgDeployError, InputError
from img_deploy.files import temporary_beside
from img_deploy.runtime.partial_rows import PartialRows
from img_deploy.runtime.results import Answer, RowKey
from img_deploy.runtime.row_formats import ROW_FORMATS


class RowWriter:
    """Writes answers batch by batch; the file has its name only when all of them are in it.

    Until then jsonl rows are in ``OUT.partial``, which an interrupted run leaves behind for ``resume``; csv and
    json are in a hidden file that an interrupted run removes. An existing ``OUT`` stays as it is until the new
    one is whole. Pipes and devices, and standard output, are written as the rows come.

    >>> with RowWriter(None, "jsonl") as writer:  # doctest: +SKIP
    ...     for batch in batches:
    ...         writer.write([answer for answer in batch if answer.key not in writer.done])

    Args:
        out: path of the file; None or "-" is standard output.
        format: "jsonl" and "json" hold one ``Answer.to_row`` per answer, "csv" one line per moment
            (``row_formats.CSV_COLUMNS``).
        resume: go on after the rows that an interrupted run left (jsonl files only); starts anew where it left none.
        settings: what the rows depend on, as JSON types; resuming with others is refused.
        sources: video -> what tells its features from changed ones; resuming refuses answers about old features.
        resumable: False for rows that come at the end, all at once: an interrupted run leaves nothing of them.

    Raises:
        InputError: before any work, where the file cannot be written or the run cannot be resumed.
    """

    def __init__(
        self,
        out: str | Path | None,
        format: str = "jsonl",
        *,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
        sources: Mapping[str, str] | None = None,
        resumable: bool = True,
    ) -> None:
        if format not in ROW_FORMATS:
            raise InputError(f"format: got {format!r}, expected one of {', '.join(ROW_FORMATS)}")
        if resume and (format != "jsonl" or out in (None, "-")):
            raise InputError("resume: only a jsonl file can be resumed; give --format jsonl and --out FILE")
        self._format = ROW_FORMATS[format]()
        self.name = "standard output" if out is None or out == "-" else str(out)
        self.done: frozenset[RowKey] = frozenset()
        """Answers (``Answer.key``) that an interrupted run has written already."""
        try:
            kept = format == "jsonl" and resumable
            partial_rows = partial(PartialRows, resume=resume, settings=settings, sources=sources) if kept else None
            self._target = self._open(out, format, partial_rows, resume)
        except OSError as error:
            raise InputError(f"{self.name}: cannot be written ({error.strerror}); give another --out") from None
        self._rows = len(self.done)
        try:
            self._put(self._format.head)
        except BaseException:
            self.abandon()
            raise

    def _open(
        self, out: str | Path | None, format: str, partial_rows: Callable[[Path], PartialRows] | None, resume: bool
    ) -> "_Target":
        if out is None or out == "-":
            sys.stdout.flush()
            # A notebook's standard output takes text alone.
            return _Direct(getattr(sys.stdout, "buffer", None) or _TextOnly(), close=False)
        path = Path(out)
        if path.is_dir():
            raise InputError(f"{path}: got a folder, expected a file; give a name such as {path / 'answers'}.{format}")
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            # Renaming over a pipe or /dev/null would put a file in its place.
            if resume:
                raise InputError(f"{path}: not a regular file, so it cannot be resumed; give another --out")
            return _Direct(path.open("wb"), close=True)
        path = Path(os.path.realpath(path))  # a link stays a link; the file it names is replaced
        if not path.parent.is_dir():
            raise InputError(f"{self.name}: there is no folder {path.parent}; create it or give another --out")
        if partial_rows is None:
            return _Temporary(path)
        target = partial_rows(path)
        self.done = frozenset(target.done)
        return target

    @property
    def rows(self) -> int:
        """Answers in the file so far, those of the interrupted run included."""
        return self._rows

    def write(self, answers: Sequence[Answer]) -> None:
        """Append a batch of answers and hand it to the operating system.

        Raises:
            ImgDeployError: the disk is full or failed; what was written stays for ``resume``.
            BrokenPipeError: the reader of standard output is gone.
        """
        self._put(self._format.rows(answers, first=self._rows == 0))
        self._rows += len(answers)

    def finish(self) -> None:
        """End the file and give it its name."""
        try:
            self._put(self._format.tail)
            self._target.finish()
        except BaseException as error:
            self.abandon()
            if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
                raise ImgDeployError(f"{self.name}: writing failed ({error.strerror})") from None
            raise

    def abandon(self) -> None:
        """Close without finishing: a jsonl file's rows stay in ``OUT.partial``, other files are removed."""
        with contextlib.suppress(OSError):  # closing writes what a full disk refused a moment ago
            self._target.abandon()

    def _put(self, text: str) -> None:
        if not text:
            return
        try:
            # One write per batch, so that a kill tears at most one row of it.
            self._target.file.write(text.encode("utf-8", "backslashreplace"))
            self._target.file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ImgDeployError(f"{self.name}: writing failed ({error.strerror})") from None

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.abandon()


class _File(Protocol):
    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...

    def close(self) -> object: ...


class _Target(Protocol):
    @property
    def file(self) -> _File: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


class _Direct:
    """Standard output, a pipe or a device: no name to change at the end."""

    def __init__(self, file: _File, close: bool) -> None:
        self.file = file
        self._close = close

    def finish(self) -> None:
        if self._close:
            self.file.close()

    abandon = finish


class _TextOnly:
    """Standard output without a binary layer."""

    def write(self, data: bytes, /) -> object:
        return sys.stdout.write(data.decode("utf-8"))

    def flush(self) -> object:
        return sys.stdout.flush()

    def close(self) -> object:
        return None


class _Temporary:
    """A hidden file beside ``OUT``, renamed when it is whole and removed when it is not."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = temporary_beside(out)
        self.file: BinaryIO = self._path.open("wb")

    def finish(self) -> None:
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self._path, self._out)

    def abandon(self) -> None:
        try:
            self.file.close()
        finally:
            self._path.unlink(missing_ok=True)
