"""GloVe text files: one word and its numbers per line, separated by single spaces."""

import codecs
import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import InputError
from img_deploy.text.glove_cache import GloveCache

GLOVE_WIDTH = 300

Progress = Callable[[int, int], None]
"""Called with bytes read so far and bytes of the file."""

_LONGEST_LINE = 1 << 16
_PROGRESS_EVERY = 1 << 24
_PROBE_LINES = 1000


@dataclass(frozen=True, eq=False)
class GloveRows:
    """Rows picked from a GloVe file, in the file's order.

    ``vectors`` is [n, width] float32. ``lines`` were read, ``skipped`` of them are not a UTF-8 word and
    ``width`` numbers (numbers are checked on picked lines only).
    """

    words: tuple[str, ...]
    vectors: NDArray[np.float32]
    lines: int
    skipped: int


def read_glove(
    path: str | Path,
    wanted: Collection[str] | None = None,
    *,
    width: int = GLOVE_WIDTH,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
    use_cache: bool = True,
) -> GloveRows:
    """Rows of the wanted words, or of every word (``wanted=None``: 2.6 GB for the 2.2 million of glove.840B).

    The file is streamed, and reading ends as soon as every wanted word was met. A word on several lines has
    the first one's numbers. Rows picked are kept in ``cache_dir`` (default
    ``$XDG_CACHE_HOME/img-deploy/glove``), so that the next run with the same file and words starts at once.

    Raises:
        InputError: the file is missing, unreadable, empty, or its lines do not hold ``width`` numbers.
    """
    path = Path(path)
    size = check_glove(path)
    cache = GloveCache(path, wanted, width, cache_dir) if use_cache and wanted is not None else None
    if cache is not None and (kept := cache.load()) is not None:
        if progress:
            progress(size, size)
        return GloveRows(*kept)
    scan = _Scan(path, size, wanted, width, progress)
    try:
        with path.open("rb") as file:
            scan.read(file)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the GloVe file") from None
    rows = GloveRows(tuple(scan.words), scan.rows.taken(), scan.lines, scan.skipped)
    if cache is not None:
        cache.store((rows.words, rows.vectors, rows.lines, rows.skipped))
    return rows


def check_glove(path: Path) -> int:
    """Bytes of a GloVe file. Raises InputError for what cannot be one: no file, a folder, a pipe, nothing in it."""
    if path.is_dir():
        raise InputError(f"{path}: got a folder, expected a GloVe text file; name the .txt file")
    if not path.exists():
        raise InputError(f"{path}: no such file; give a GloVe text file such as glove.840B.300d.txt")
    if not path.is_file():
        raise InputError(f"{path}: got a pipe or a device, expected a GloVe text file; name the .txt file")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{path}: got an empty file, expected GloVe lines; download it again")
    return size


class _Rows:
    """Rows of a matrix that grows; its memory is moved, not doubled, where the allocator can."""

    def __init__(self, width: int) -> None:
        self._matrix = np.empty((1024, width), np.float32)
        self._count = 0

    def append(self, row: NDArray[np.float32]) -> None:
        if self._count == len(self._matrix):
            self._matrix.resize((2 * self._count, self._matrix.shape[1]), refcheck=False)
        self._matrix[self._count] = row
        self._count += 1

    def taken(self) -> NDArray[np.float32]:
        self._matrix.resize((self._count, self._matrix.shape[1]), refcheck=False)
        return self._matrix


class _Scan:
    """One pass over a GloVe file."""

    def __init__(
        self,
        path: Path,
        size: int,
        wanted: Collection[str] | None,
        width: int,
        progress: Progress | None,
    ) -> None:
        self.path, self.size, self.width, self.progress = path, size, width, progress
        # Words are compared as bytes: decoding 2.2 million words that nobody asked for costs more than the rest.
        self.missing = None if wanted is None else {word.encode("utf-8", "surrogatepass") for word in wanted}
        self.seen: set[bytes] = set()
        self.words: list[str] = []
        self.rows = _Rows(width)
        self.lines = self.skipped = 0

    def read(self, file: BinaryIO) -> None:
        done = reported = 0
        continued = False
        for piece in _pieces(file):
            done += len(piece)
            cut = len(piece) == _LONGEST_LINE and not piece.endswith((b"\n", b"\r"))
            self._take(b"" if cut or continued else piece)
            continued = cut
            if self.missing is not None and not self.missing:
                break
            if self.progress and done - reported >= _PROGRESS_EVERY:
                self.progress(done, self.size)
                reported = done
        else:
            self._refuse_if_all_skipped(b"")
        if self.progress:
            self.progress(self.size, self.size)

    def _take(self, line: bytes) -> None:
        self.lines += 1
        stripped = line.rstrip(b"\r\n ")
        word, _, numbers = stripped.partition(b" ")
        if stripped.count(b" ") != self.width or not word:
            self.skipped += 1
            if self.lines == _PROBE_LINES:
                self._refuse_if_all_skipped(stripped)
            return
        if word in self.seen or (self.missing is not None and word not in self.missing):
            return
        if (row := _row(numbers)) is None or (text := _text(word)) is None:
            self.skipped += 1
            return
        if self.missing is None:
            self.seen.add(word)
        else:
            self.missing.discard(word)
        self.words.append(text)
        self.rows.append(row)

    def _refuse_if_all_skipped(self, line: bytes) -> None:
        if self.skipped == self.lines:
            last = f"lines of {line.count(b' ') + 1} fields" if line else "no such line"
            raise InputError(
                f"{self.path}: got {last}, expected a word and {self.width} numbers per line; give an unpacked "
                f"GloVe text file of {self.width} numbers per word, such as glove.840B.300d.txt"
            )


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file without its byte order mark, each in pieces of bounded length: it may have no line end."""
    head = file.read(_LONGEST_LINE)
    file.seek(len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0)
    if b"\n" in head or b"\r" not in head:
        return iter(lambda: file.readline(_LONGEST_LINE), b"")
    text = io.TextIOWrapper(file, "latin-1", newline="\r")  # lines that end by a carriage return alone
    return iter(lambda: text.readline(_LONGEST_LINE).encode("latin-1"), b"")


def _row(numbers: bytes) -> NDArray[np.float32] | None:
    try:
        with np.errstate(over="ignore"):
            row = np.array([float(number) for number in numbers.split(b" ")]).astype(np.float32)
    except ValueError:
        return None
    return row if np.isfinite(row).all() else None


def _text(word: bytes) -> str | None:
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        return None
