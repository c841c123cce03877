"""Rows already picked from a GloVe file, kept between runs."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Kept = tuple[tuple[str, ...], NDArray[np.float32], int, int]
"""Words, vectors [n, width], lines, skipped: the fields of ``GloveRows``."""

_HASHES = "glove_hashes.json"
_MOST_FILES = 32

_log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """``$XDG_CACHE_HOME/img-deploy``, or ``~/.cache/img-deploy``; None where there is no home folder."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given) / "img-deploy"
    try:
        return Path.home() / ".cache" / "img-deploy"
    except RuntimeError:
        return None


class GloveCache:
    """One file of rows per (content of the GloVe file, wanted words, width).

    The content's sha256 is remembered by the file's path, size and modification time, so that 5 GB are
    hashed once. The cache is a convenience: damage means another read, never an error or another answer.
    """

    def __init__(self, path: Path, wanted: Collection[str], width: int, folder: str | Path | None = None) -> None:
        self._folder = Path(folder) if folder is not None else cache_folder()
        self._path = path.resolve()
        self._wanted = sorted(set(wanted))
        self._width = width
        self._identity = self._identify()

    def load(self) -> Kept | None:
        """Kept rows of this file and these words, or None."""
        if self._folder is None:
            return None
        known = self._hashes().get(str(self._path))
        if not isinstance(known, dict) or {**known, "sha256": None} != {**self._identity, "sha256": None}:
            return None
        try:
            with np.load(self._rows_file(str(known["sha256"])), allow_pickle=False) as kept:
                index, vectors, counts = kept["index"], kept["vectors"], kept["counts"]
            words = tuple(self._wanted[i] for i in index.tolist())
            lines, skipped = (int(count) for count in counts.tolist())
        except Exception:  # a damaged archive fails in a dozen ways; all of them mean "read the file again"
            return None
        if vectors.dtype != np.float32 or vectors.shape != (len(words), self._width):
            return None
        return (words, vectors, lines, skipped) if np.isfinite(vectors).all() else None

    def store(self, digest: str | None, kept: Kept) -> None:
        """Keep rows. ``digest`` is the content's sha256; None (an early end of reading) keeps nothing."""
        if self._folder is None or digest is None or self._identify() != self._identity:
            return
        words, vectors, lines, skipped = kept
        position = {word: i for i, word in enumerate(self._wanted)}
        index = np.array([position[word] for word in words], np.int64)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            counts = np.array([lines, skipped], np.int64)
            _write(
                self._rows_file(digest),
                lambda file: np.savez(file, index=index, vectors=vectors, counts=counts),
            )
            hashes = {**self._hashes(), str(self._path): {**self._identity, "sha256": digest}}
            _write(self._folder / _HASHES, lambda file: file.write(json.dumps(hashes, indent=1).encode()))
            oldest_first = sorted(self._folder.glob("glove-*.npz"), key=lambda file: file.stat().st_mtime_ns)
            for old in oldest_first[:-_MOST_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s: GloVe rows not kept for the next run (%s)", self._folder, error.strerror)

    def _identify(self) -> dict[str, int]:
        status = self._path.stat()
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}

    def _hashes(self) -> dict[str, Any]:
        assert self._folder is not None
        try:
            hashes = json.loads((self._folder / _HASHES).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return hashes if isinstance(hashes, dict) else {}

    def _rows_file(self, digest: str) -> Path:
        assert self._folder is not None
        key = "\0".join([digest, str(self._width), *self._wanted]).encode("utf-8", "surrogatepass")
        return self._folder / f"glove-{hashlib.sha256(key).hexdigest()}.npz"


def _write(path: Path, fill: Callable[[Any], object]) -> None:
    """Write a file whole or not at all, also beside another process that writes the same one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            fill(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
