"""The places where features lie in a folder, and finding in them the kinds that are wanted."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from img_deploy.errors import FeatureError
from img_deploy.features.checks import reading
from img_deploy.features.kinds import PLAIN, FeatureKind
from img_deploy.features.stores import ArrayFiles, ClipAndSlowFast, Store, TextFiles, VggishPickle

S = TypeVar("S", Store, TextFiles)


@dataclass(frozen=True)
class Home(Generic[S]):
    """One place: the kind that usually lies there, its path under the folder, and how it is opened.

    What lies there is told by its width, not by the place: a plain kind may lie in ``i3d_video``.
    """

    kind: str
    place: str
    """Path of the folder or file that must exist, under the folder given; with ``also`` where two must."""
    open: Callable[[Path], S]
    also: str | None = None

    def exists(self, root: Path) -> bool:
        return all(os.path.exists(root / place) for place in (self.place, self.also) if place)

    @property
    def shown(self) -> str:
        return self.place if self.also is None else f"{self.place} + {self.also.rpartition('/')[2]}"


def _files(place: str, suffix: str) -> Callable[[Path], Store]:
    return lambda root: ArrayFiles(root / place, suffix)


def _clip_slowfast(root: Path) -> Store:
    clip = ArrayFiles(root / "clip_features/visual_features", ".npy")
    return ClipAndSlowFast(clip, ArrayFiles(root / "clip_features/slowfast_features", ".npz"))


def _vggish(root: Path) -> Store:
    return VggishPickle(root / "audio/VGGish.pickle")


def _text(place: str, *names: str) -> Callable[[Path], TextFiles]:
    return lambda root: TextFiles(root / place, names)


VIDEO_HOMES: tuple[Home[Store], ...] = (
    Home("i3d", "i3d_video", _files("i3d_video", ".npy")),
    Home("clip+sf", "clip_features/visual_features", _clip_slowfast, also="clip_features/slowfast_features"),
    Home("iv2", "iv2_features/visual_features_6b", _files("iv2_features/visual_features_6b", ".pt")),
    Home(PLAIN, "video", _files("video", ".npy")),
)
AUDIO_HOMES: tuple[Home[Store], ...] = (
    Home("panns", "audio", _files("audio", ".npy")),
    Home("vggish", "audio/VGGish.pickle", _vggish),
)
TEXT_HOMES: tuple[Home[TextFiles], ...] = (
    Home("clip", "clip_features/text_features", _text("clip_features/text_features", "qid_{}.npy")),
    Home("llama", "iv2_features/llama2_txt", _text("iv2_features/llama2_txt", "qid{}.pt")),
    Home(PLAIN, "text", _text("text", "{}.npy", "qid_{}.npy")),
)


@dataclass(frozen=True)
class Found(Generic[S]):
    """What a folder holds of one kind of stream: the store of the wanted kind, or what lies there instead."""

    store: S | None
    others: tuple[str, ...]
    """What the other places hold, one phrase each."""


def find(root: Path, homes: tuple[Home[S], ...], wanted: FeatureKind, named: Callable[[int], FeatureKind]) -> Found[S]:
    """The first place under ``root`` whose features have the wanted width, the kind's own place first.

    Args:
        named: the kind of a width, to say what else was found.
    """
    others = []
    for home in sorted(homes, key=lambda home: home.kind != wanted.name):
        if not home.exists(root):
            continue
        try:
            store = home.open(root)
            width = store.width()
        except FeatureError as error:
            others.append(f"unreadable files in {home.shown} ({error})")
            continue
        if width == wanted.width:
            return Found(store, tuple(others))
        if width is not None:
            others.append(f"{named(width)} in {home.shown}")
    return Found(None, tuple(others))


def wanted_place(homes: tuple[Home[S], ...], wanted: FeatureKind) -> str:
    """Where the wanted kind would be looked for, in words."""
    places = [home.shown for home in homes if home.kind in (wanted.name, PLAIN)]
    return " or ".join(places or [home.shown for home in homes])


def hint(root: Path) -> str:
    """What to do about a folder with no features in any known place: the folder probably meant, or the layout."""
    for near in (root.parent, root.parent.parent, *_folders(root)):
        if any(home.exists(near) for home in VIDEO_HOMES):
            return f"did you mean {near}?"
    return "give a dataset's feature folder or one with video/*.npy and audio/*.npy"


def nothing_in(root: Path, homes: tuple[Home[S], ...]) -> str:
    """What ``find`` looked at where it found no features at all, in words: the empty places, or the folder's names."""
    empty = [home.shown for home in homes if home.exists(root)]
    return f"no features in {', '.join(empty)}" if empty else contents(root)


def contents(root: Path) -> str:
    """The first few names in a folder, in words."""
    with reading(root, "a folder of features"), os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries)
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (", ".join(names[:4]) + more) or "nothing"


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(root / entry.name for entry in entries if entry.is_dir())[:50]
