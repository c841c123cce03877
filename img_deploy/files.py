"""Files that are whole or absent: written under a temporary name and renamed. Needs neither numpy nor torch."""

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # Linux; macOS calls the same number RENAME_SWAP
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder, of this process alone: renaming it to ``path`` is one step."""
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


@contextmanager
def replacing_file(path: str | os.PathLike[str], mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """A stream whose content takes the place of ``path`` when the block ends well; otherwise nothing changes.

    Text is UTF-8 with line ends as written. What is no file, as ``/dev/null``, is written to and stays what it is.
    Raises OSError, which names it, where it cannot be written.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    text = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
    try:
        if path.exists() and not path.is_file():
            with open(path, mode, **text) as stream:  # type: ignore[call-overload]
                yield stream
            return
        with open(temporary, mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a full disk names none
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole UTF-8 file, or leave what was there. Raises OSError."""
    with replacing_file(path, "w") as stream:
        stream.write(text)


@contextmanager
def replacing_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends well, and vanishes otherwise.

    The two change names in one step: a killed program leaves the old folder whole, or the new one (and perhaps the
    temporary one, ``.<name>.<pid>.tmp``). Where the file system cannot swap folders, the old one is called
    ``.<name>.<pid>.old`` for a moment. What may be replaced is the caller's to check.

    Raises OSError where it cannot be written, or is the current folder or holds it: whoever stands in it would be left
    in a deleted one.
    """
    given, folder = folder, Path(os.path.realpath(folder))  # a link stays a link
    if folder in (here := Path.cwd(), *here.parents):
        raise OSError(errno.EBUSY, "it is the current folder or holds it; give the name of a new one", str(given))
    temporary = temporary_beside(folder)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """``temporary`` becomes ``folder``; what was there becomes ``temporary``."""
    if not folder.exists():
        os.rename(temporary, folder)
    elif not exchange(temporary, folder):
        old = temporary.with_suffix(".old")
        os.rename(folder, old)
        try:
            os.rename(temporary, folder)
        except OSError:
            os.rename(old, folder)
            raise
        os.rename(old, temporary)


def exchange(first: Path, second: Path) -> bool:
    """Swap two existing paths of one file system in one step. False where the system or the file system cannot.

    Raises OSError where it could, but may not.
    """
    ends = os.fsencode(first), os.fsencode(second)
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, ends[0], _AT_FDCWD, ends[1], _RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*ends, _RENAME_EXCHANGE)
    else:
        return False
    code = ctypes.get_errno()
    if failed and code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(second))
    return not failed


def sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal digest of a file's content. Raises OSError."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/img-deploy/<name>`` (``~/.cache`` without the variable); not made here."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "img-deploy" / name
