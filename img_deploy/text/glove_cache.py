"""Rows already picked from a GloVe file, kept between runs."""

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from img_deploy.files import cache_folder, replacing_file

Kept = tuple[tuple[str, ...], NDArray[np.float32], int, int]
"""Words, vectors [n, width], lines, skipped: the fields of ``GloveRows``."""

_FORMAT = 2
_MOST_FILES = 32

_log = logging.getLogger(__name__)


class GloveCache:
    """One file of rows per (GloVe file, wanted words, width); a file is known by path, size, times and inode.

    The cache is a convenience: damage means another read, never an error or another answer.
    """

    def __init__(self, path: Path, wanted: Collection[str], width: int, folder: str | Path | None = None) -> None:
        self._path = path.resolve()
        self._wanted = sorted(set(wanted))
        self._width = width
        self._folder = Path(folder) if folder is not None else _default_folder()
        self._file = self._rows_file()

    def load(self) -> Kept | None:
        """Kept rows of this file and these words, or None."""
        try:
            with np.load(self._file or "", allow_pickle=False) as kept:
                index, vectors, counts = kept["index"], kept["vectors"], kept["counts"]
            words = tuple(self._wanted[i] for i in index.tolist())
            lines, skipped = (int(count) for count in counts.tolist())
        except Exception:  # a damaged archive fails in a dozen ways; all of them mean "read the file again"
            return None
        if vectors.dtype != np.float32 or vectors.shape != (len(words), self._width):
            return None
        return (words, vectors, lines, skipped) if np.isfinite(vectors).all() else None

    def store(self, kept: Kept) -> None:
        """Keep rows, unless the GloVe file changed while it was read."""
        if self._file is None or self._rows_file() != self._file:
            return
        words, vectors, lines, skipped = kept
        position = {word: i for i, word in enumerate(self._wanted)}
        index = np.array([position[word] for word in words], np.int64)
        folder = self._file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing_file(self._file) as file:
                np.savez(file, index=index, vectors=vectors, counts=np.array([lines, skipped], np.int64))
            oldest_first = sorted(folder.glob("glove-*.npz"), key=lambda file: file.stat().st_mtime_ns)
            for old in oldest_first[:-_MOST_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s: GloVe rows not kept for the next run (%s)", folder, error.strerror)

    def _rows_file(self) -> Path | None:
        if self._folder is None:
            return None
        status = self._path.stat()
        identity = (self._path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        key = "\0".join([str(_FORMAT), *map(str, identity), str(self._width), *self._wanted])
        return self._folder / f"glove-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}.npz"


def _default_folder() -> Path | None:
    try:
        return cache_folder("glove")
    except RuntimeError:  # there is no home folder
        return None
