"""Where the features of many videos lie: files by id in a folder (or in two), or one pickle.

A store lists its ids without opening a file, tells a length from a header, and reads one id at a time.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

from img_deploy.errors import FeatureError
from img_deploy.features.checks import Array, reading
from img_deploy.features.ids import known_spelling
from img_deploy.features.paths import names_in
from img_deploy.features.prepare import Source
from img_deploy.features.readers import read_array, read_pickle, shape_of


class Store(Protocol):
    """Features [T, W] by id, in one part or several."""

    def ids(self) -> Mapping[str, object]:
        """The ids there are, in sorted order; nothing is read for it."""

    def width(self) -> int | None:
        """W of a file that can be opened; None where there are no files. Raises FeatureError."""

    def length(self, name: str) -> int:
        """T of an id, from the header of the part that decides it. Raises FeatureError."""

    def read(self, name: str) -> list[Source]:
        """An id's features as stored, a part each. Raises FeatureError."""

    def files(self, name: str, /) -> list[Path]:
        """The files that hold an id."""

    def folders(self) -> list[Path]:
        """Where its files lie."""


def width_of(paths: Iterable[Path]) -> int | None:
    """W of the first file that can be opened and holds a row; None where there are none. Raises FeatureError."""
    problem = None
    for path in paths:
        try:
            rows, width = shape_of(path)
        except FeatureError as error:
            problem = problem or error
            continue
        if rows:
            return width
    if problem:
        raise problem
    return None


class ArrayFiles:
    """One file per id in a folder, ``<id><suffix>``; the suffix in any letter case."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix

    @cached_property
    def names(self) -> dict[str, str]:
        """File name by id, in sorted order. The suffix as it stands comes before other spellings of it."""
        with reading(self.folder, "a folder of features"):
            found = [name for name, _ in names_in(self.folder) if name[0] != "."]
        end = len(self.suffix)
        found = [name for name in found if name[-end:].lower() == self.suffix and len(name) > end]
        exact_last = sorted(found, key=lambda name: (name[:-end], name.endswith(self.suffix)))
        return {name[:-end]: name for name in exact_last}

    def ids(self) -> Mapping[str, str]:
        return self.names

    def file(self, name: str) -> Path:
        return self.folder / self.names[name]

    def files(self, name: str) -> list[Path]:
        return [self.file(name)]

    def folders(self) -> list[Path]:
        return [self.folder]

    def width(self) -> int | None:
        return width_of(self.file(name) for name in self.names)

    def length(self, name: str) -> int:
        return shape_of(self.file(name))[0]

    def read(self, name: str) -> list[Source]:
        path = self.file(name)
        return [Source(str(path), read_array(path))]


class ArrayFileParts:
    """Several folders with one file each per id; a video counts where all have it, and has the last one's length."""

    def __init__(self, parts: list[ArrayFiles]) -> None:
        self.parts = parts

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Each part's spelling of an id, by the last part's."""
        found = {name: [known_spelling(name, part.names) for part in self.parts] for name in self.parts[-1].names}
        return {name: [own for own in each if own] for name, each in found.items() if None not in each}

    def ids(self) -> Mapping[str, object]:
        return self._names

    def unpaired(self) -> list[Path]:
        """The files of ids that some parts have and others have not."""
        paired = {path for name in self._names for path in self.files(name)}
        return [path for part in self.parts for path in map(part.file, part.names) if path not in paired]

    def width(self) -> int | None:
        widths = [part.width() for part in self.parts]
        return None if None in widths else sum(width or 0 for width in widths)

    def length(self, name: str) -> int:
        return self.parts[-1].length(self._names[name][-1])

    def read(self, name: str) -> list[Source]:
        return [source for part, own in self._own(name) for source in part.read(own)]

    def files(self, name: str) -> list[Path]:
        return [part.file(own) for part, own in self._own(name)]

    def folders(self) -> list[Path]:
        return [part.folder for part in self.parts]

    def _own(self, name: str) -> list[tuple[ArrayFiles, str]]:
        return list(zip(self.parts, self._names[name], strict=True))


class PickledArrays:
    """One pickle of all videos (``VGGish.pickle``): read whole on first use, kept as the bytes it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        return dict(sorted(read_pickle(self.path).items()))

    def ids(self) -> Mapping[str, Array]:
        return self._arrays

    def width(self) -> int | None:
        return next((array.shape[1] for array in self._arrays.values() if len(array)), None)

    def length(self, name: str) -> int:
        return len(self._arrays[name])

    def read(self, name: str) -> list[Source]:
        return [Source(f"{self.path}[{name}]", self._arrays[name])]

    def files(self, _name: str) -> list[Path]:
        return [self.path]

    def folders(self) -> list[Path]:
        return [self.path.parent]


class TextFiles:
    """Token features of queries, one file per query id; looked up by name, never listed whole."""

    NAMES = ("qid_{}.npy", "qid{}.pt", "{}.npy", "qid_{}.pt", "qid{}.npy", "{}.pt")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def width(self) -> int | None:
        """W of a file of the folder, from its header; None where it holds none. Raises FeatureError."""
        with reading(self.folder, "a folder of text features"):
            return width_of(self.folder / name for name, _ in names_in(self.folder) if self._is_feature(name))

    def file(self, qid: int) -> Path:
        """The file of a query. Raises FeatureError where there is none."""
        names = [name.format(qid) for name in self.NAMES]
        path = next((self.folder / name for name in names if (self.folder / name).exists()), None)
        if path is None:
            there = next(filter(self._is_feature, sorted(name for name, _ in names_in(self.folder))), "none")
            raise FeatureError(
                f"{self.folder}: no text features for query {qid}; looked for {', '.join(names)} (there: {there})"
            )
        return path

    @staticmethod
    def _is_feature(name: str) -> bool:
        return name.endswith((".npy", ".pt")) and name[0] != "."

    def read(self, qid: int) -> Source:
        """A query's features [N, W] as stored. Raises FeatureError."""
        path = self.file(qid)
        return Source(str(path), read_array(path))
