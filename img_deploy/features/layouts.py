"""Finding in a folder the kinds of features that are wanted."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from img_deploy.errors import FeatureError
from img_deploy.features.checks import reading
from img_deploy.features.kinds import KINDS, PLAIN, PLAIN_FILES, FeatureKind, Stream, kind_of_width
from img_deploy.features.paths import names_in
from img_deploy.features.stores import ArrayFileParts, ArrayFiles, PickledArrays, TextFiles

NONE = "nothing"


@dataclass(frozen=True)
class Place:
    """Where features of one kind lie: ``files`` of :class:`~img_deploy.features.kinds.FeatureKind`.

    What lies there is told by its width, not by the place: a plain kind may lie in ``i3d_video``.
    """

    kind: str
    stream: Stream
    files: tuple[str, ...]

    def paths(self, root: Path) -> list[Path]:
        """The folders, or the file, that must be there."""
        return [root / (os.path.dirname(name) if "{}" in name else name) for name in self.files]

    def exists(self, root: Path) -> bool:
        return all(path.exists() for path in self.paths(root))

    @cached_property
    def shown(self) -> str:
        """The place in words: ``clip_features/visual_features + slowfast_features``."""
        first, *others = [str(path) for path in reversed(self.paths(Path()))]
        return " + ".join([first, *(os.path.basename(other) for other in others)])

    def open(self, root: Path) -> Any:
        """Its :class:`Store`, or :class:`TextFiles` for text."""
        paths = self.paths(root)
        if self.stream == "text":
            return TextFiles(paths[0])
        if "{}" not in self.files[0]:
            return PickledArrays(paths[0])
        parts = [ArrayFiles(path, os.path.splitext(name)[1]) for path, name in zip(paths, self.files, strict=True)]
        return parts[0] if len(parts) == 1 else ArrayFileParts(parts)


def places(stream: Stream) -> list[Place]:
    """The places of a stream, in the order in which they are tried: those of the table, then that of plain kinds."""
    known = [Place(kind.name, stream, kind.files) for kind in KINDS if kind.stream == stream]
    plain = Place(PLAIN, stream, PLAIN_FILES[stream])
    return [*known, *([] if any(place.files == plain.files for place in known) else [plain])]


@dataclass(frozen=True)
class Found:
    """What a folder holds of one stream: the store of the wanted kind, or what lies there instead."""

    store: Any = None
    others: tuple[str, ...] = ()
    """What the other places hold, one phrase each."""


def find(root: Path, stream: Stream, wanted: FeatureKind) -> Found:
    """The first place under ``root`` whose features have the wanted width, the kind's own place first."""
    others = []
    for place in sorted(places(stream), key=lambda place: place.kind != wanted.name):
        if not place.exists(root):
            continue
        try:
            store = place.open(root)
            width = store.width()
        except FeatureError as error:
            others.append(f"unreadable files in {place.shown} ({error})")
            continue
        if width == wanted.width:
            return Found(store, tuple(others))
        if width is not None:
            others.append(f"{kind_of_width(stream, width)} in {place.shown}")
    return Found(None, tuple(others))


def wanted_place(stream: Stream, wanted: FeatureKind) -> str:
    """Where the wanted kind would be looked for, in words."""
    known = places(stream)
    shown = [place.shown for place in known if place.kind in (wanted.name, PLAIN)]
    return " or ".join(shown or [place.shown for place in known])


def hint(root: Path) -> str:
    """What to do about a folder with no features in any known place: the folder probably meant, or the layout."""
    for near in (root.parent, root.parent.parent, *_folders(root)):
        if any(place.exists(near) for place in places("video")):
            return f"did you mean {near}?"
    return "give a dataset's feature folder or one with video/*.npy and audio/*.npy"


def nothing_in(root: Path, stream: Stream) -> str:
    """What ``find`` looked at where it found no features at all, in words: the empty places, or the folder's names."""
    empty = [place for place in places(stream) if place.exists(root)]
    if not empty:
        return contents(root)
    inside = contents(empty[0].paths(root)[0])
    return f"no features in {', '.join(place.shown for place in empty)}" + ("" if inside == NONE else f" ({inside})")


def existing_folders(root: Path, stream: Stream) -> list[Path]:
    """The folders among the places of a stream."""
    return sorted({path for place in places(stream) for path in place.paths(root) if path.is_dir()})


_BESIDE = (".json", ".txt", ".md", ".csv", ".tsv", ".log", ".yaml", ".yml")
"""Suffixes of what people keep beside features."""


def unread(folders: Iterable[Path], read: Collection[Path]) -> list[Path]:
    """The files in some folders that are not among those ``read``; notes, lists and other kinds' files left out."""
    own = {os.path.basename(name) for kind in KINDS for name in kind.files if "{}" not in name}
    found: list[Path] = []
    for folder in folders:
        with reading(folder, "a folder of features"):
            names = [name for name, is_folder in names_in(folder) if name[0] != "." and not is_folder]
        found += [folder / name for name in sorted(names) if name not in own and not name.lower().endswith(_BESIDE)]
    return [path for path in found if path not in read]


def contents(root: Path) -> str:
    """The first few names in a folder, in words."""
    with reading(root, "a folder of features"):
        names = sorted(name for name, _ in names_in(root))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(names[:4]) + more) or NONE


def _folders(root: Path) -> list[Path]:
    return sorted(root / name for name, is_folder in names_in(root) if is_folder)[:50]
