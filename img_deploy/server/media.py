"""Files that play the videos, listed once: a request names one of them by its video's id, never by a path."""

from collections.abc import Mapping
from pathlib import Path

from img_deploy.errors import InputError
from img_deploy.features.ids import by_video

SUFFIXES = (".mp4", ".webm", ".m4v", ".mov", ".mkv", ".ogv")


class Media:
    """Media files by video id."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    @classmethod
    def in_folder(cls, folder: Path) -> "Media":
        """``VID.mp4`` and the like. Raises InputError: no folder, or no such file in it."""
        try:
            found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]
        except OSError as error:
            raise InputError(f"{folder}: cannot be listed ({error.strerror}); give the folder of the videos") from None
        if not found:
            raise InputError(f"{folder}: holds no videos, expected VID.mp4 or {', '.join(SUFFIXES[1:])}")
        return cls({path.stem: path.resolve() for path in found})

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, vid: str) -> bool:
        return self.path(vid) is not None

    def path(self, vid: str) -> Path | None:
        """The file of a video; None where there is none."""
        return by_video(self._paths, vid)
