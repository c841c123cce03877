"""Where features lie: on this machine, or in object storage under a URL (``s3://...``, ``memory://...``).

A URL becomes a ``UPath``, which has the methods of ``Path`` over fsspec; files there are fetched to be read.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from img_deploy.errors import FeatureError, one_line

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from img_deploy.features.checks import Where

START = 4096
"""Bytes in which the header of a .npy file ends."""
AT_ONCE = 16
"""Requests under way."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def plain(where: "Where") -> str:
    """A place as text; ``file:///a`` becomes ``/a``."""
    return str(where).removeprefix("file://")


def is_remote(where: "Where") -> bool:
    return "://" in plain(where)


def path_of(where: "Where") -> Path:
    """The path of a place. Raises FeatureError: nothing here reads URLs of that kind."""
    text = plain(where)
    if not is_remote(text):
        return Path(text)
    from upath import UPath

    try:
        return cast(Path, UPath(text))
    except Exception as error:  # the errors of storage clients have no common class
        raise FeatureError(f"{text}: cannot be opened ({one_line(error, 160)})") from None


def names_in(folder: Path) -> Iterator[tuple[str, bool]]:
    """Names in a folder, and whether each is a folder. Raises what the file system raises."""
    if not is_remote(folder):
        with os.scandir(folder) as entries:
            yield from ((entry.name, _is_folder(entry)) for entry in entries)
        return
    with _remote(folder):
        for entry in folder.fs.ls(folder.path, detail=True):  # type: ignore[attr-defined]
            yield os.path.basename(entry["name"].rstrip("/")), entry["type"] == "directory"


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def each(make: Callable[[Item], Result], items: Iterable[Item], where: "Where") -> Iterator[Result]:
    """What is made of each item, in order; of a remote place several at a time, for its answers are slow to come."""
    if not is_remote(where):
        yield from map(make, items)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(make, items)


def identity(path: Path) -> str:
    """What tells a file from one that is put in its place; nothing is read."""
    if is_remote(path):
        try:
            return str(path.fs.ukey(path.path))  # type: ignore[attr-defined]
        except Exception:  # as above
            return f"{path}: absent"
    try:
        status = os.stat(path)
        facts = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    except OSError:
        facts = []  # e.g. a link that leads nowhere: another identity than that of any file
    return repr((os.path.realpath(path), facts))


def local_copy(path: Path) -> "AbstractContextManager[Path]":
    """The file on this machine while it is opened; what is mapped of it stays. Errors name the path.

    Raises FeatureError: it cannot be fetched.
    """
    return _fetched(path) if is_remote(path) else nullcontext(path)


@contextmanager
def _fetched(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="img-deploy-") as folder:
        copy = Path(folder) / path.name
        with _remote(path):
            copy.write_bytes(path.read_bytes())
        try:
            yield copy
        except FeatureError as error:
            raise type(error)(str(error).replace(str(copy), str(path))) from None


def start_of(path: Path) -> tuple[bytes, int]:
    """The first bytes of a remote file, and its size. Raises FeatureError."""
    with _remote(path):
        files, name = path.fs, path.path  # type: ignore[attr-defined]
        return files.cat_file(name, start=0, end=START), files.info(name)["size"]


@contextmanager
def _remote(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FeatureError(f"{path}: there is no such file or folder; check the URL") from None
    except Exception as error:  # as above
        raise FeatureError(f"{path}: cannot be read ({one_line(error, 160)})") from None
