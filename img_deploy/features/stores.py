"""Where the features of many videos lie: a folder of files, two folders side by side, or one pickle.

A store lists its ids without opening a file, tells a length from a header, and reads one id at a time.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from img_deploy.errors import FeatureError
from img_deploy.features.checks import Array, checked, reading
from img_deploy.features.readers import read_vggish, reader_of, scaled_vggish, shape_of
from img_deploy.features.resample import Floats, align

Resize = Callable[[Array], Floats]

_PROBES = 5
"""Files whose headers are tried for the width, so that one broken file does not close a folder."""


class Store(Protocol):
    """Features [T, W] by id."""

    def ids(self) -> Mapping[str, object]:
        """The ids there are, in sorted order; nothing is read for it."""

    def width(self) -> int | None:
        """W of a file that can be opened; None where there are no files. Raises FeatureError."""

    def length(self, name: str) -> int:
        """T of an id, from the header. Raises FeatureError."""

    def load(self, name: str, width: int, resize: Resize) -> Floats:
        """``resize`` of an id's features, once their width and values are checked. Raises FeatureError."""


def _width_of(paths: Iterable[Path]) -> int | None:
    """W of the first of a few files that can be opened and holds a row; None where there are none."""
    problem = None
    for path in islice(paths, _PROBES):
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
    """One file per id in a folder, ``<id><suffix>``."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = folder, suffix

    @cached_property
    def _ids(self) -> dict[str, None]:
        with reading(self.folder, "a folder of features"), os.scandir(self.folder) as entries:
            names = [entry.name for entry in entries]
        return dict.fromkeys(
            sorted(n.removesuffix(self.suffix) for n in names if n.endswith(self.suffix) and n[0] != ".")
        )

    def ids(self) -> Mapping[str, None]:
        return self._ids

    def file(self, name: str) -> Path:
        return self.folder / f"{name}{self.suffix}"

    def width(self) -> int | None:
        return _width_of(self.file(name) for name in self._ids)

    def length(self, name: str) -> int:
        return shape_of(self.file(name))[0]

    def read(self, name: str, width: int | None = None) -> Array:
        """[T, W] as stored, checked. Raises FeatureError."""
        path = self.file(name)
        return checked(reader_of(path)(path), path, width)

    def load(self, name: str, width: int, resize: Resize) -> Floats:
        return resize(self.read(name, width))


class ClipAndSlowFast:
    """[SlowFast; CLIP] from their two folders; a video counts where both have it, and has CLIP's length."""

    def __init__(self, clip: ArrayFiles, slowfast: ArrayFiles) -> None:
        self.clip, self.slowfast = clip, slowfast

    @cached_property
    def _ids(self) -> dict[str, None]:
        return {name: None for name in self.clip.ids() if name in self.slowfast.ids()}

    def ids(self) -> Mapping[str, None]:
        return self._ids

    def unpaired(self) -> list[str]:
        """Ids that one of the two folders has and the other has not."""
        return sorted(self.clip.ids().keys() ^ self.slowfast.ids().keys())

    def width(self) -> int | None:
        clip, slowfast = self.clip.width(), self.slowfast.width()
        return None if clip is None or slowfast is None else clip + slowfast

    def length(self, name: str) -> int:
        return self.clip.length(name)

    def load(self, name: str, width: int, resize: Resize) -> Floats:
        clip, slowfast = self.clip.read(name), self.slowfast.read(name)
        if clip.shape[1] + slowfast.shape[1] != width:
            raise FeatureError(
                f"{self.clip.file(name)}: got width {clip.shape[1]}, and {slowfast.shape[1]} in "
                f"{self.slowfast.file(name)}, expected {width} together; extract this video's features again"
            )
        if len(slowfast) != len(clip):
            slowfast = align(slowfast, len(clip))
        # Resizing treats every column alike, so each half is resized before the long ones are put together.
        return np.concatenate([resize(slowfast), resize(clip)], axis=1)


class VggishPickle:
    """``VGGish.pickle``: read whole on first use, kept as the bytes it holds, scaled when a video is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        arrays = read_vggish(self.path)
        return {name: arrays[name] for name in sorted(arrays)}

    def ids(self) -> Mapping[str, Array]:
        return self._arrays

    def width(self) -> int | None:
        return next((array.shape[1] for array in self._arrays.values() if len(array)), None)

    def length(self, name: str) -> int:
        return len(self._arrays[name])

    def load(self, name: str, width: int, resize: Resize) -> Floats:
        return resize(scaled_vggish(checked(self._arrays[name], f"{self.path}[{name}]", width)))


class TextFiles:
    """Token features of queries, one file per query id; looked up by name, never listed whole."""

    NAMES = ("qid_{}.npy", "qid{}.pt", "{}.npy", "qid_{}.pt", "qid{}.npy", "{}.pt")

    def __init__(self, folder: Path, names: tuple[str, ...] = NAMES) -> None:
        self.folder, self.names = folder, names

    def width(self) -> int | None:
        """W of a file of the folder, from its header; None where it holds none. Raises FeatureError."""
        ends = tuple({name.rpartition("}")[2] for name in self.names})
        with reading(self.folder, "a folder of text features"), os.scandir(self.folder) as entries:
            found = (entry.name for entry in entries if entry.name.endswith(ends) and entry.name[0] != ".")
            return _width_of(self.folder / name for name in found)

    def read(self, qid: int, width: int) -> Floats:
        """[N, W] float32 of a query. Raises FeatureError."""
        names = [name.format(qid) for name in self.names]
        path = next((self.folder / name for name in names if (self.folder / name).exists()), None)
        if path is None:
            raise FeatureError(f"{self.folder}: no text features for query {qid}; looked for {', '.join(names)}")
        features = checked(reader_of(path)(path), path, width)
        return np.array(features, dtype=np.float32, order="C")
