"""Features of many videos as one memory-mapped array per modality, read by slices.

Files are read once, by the readers that inference uses, down-sampled and aligned, and kept: twenty thousand videos
then stream from disk, and nothing of them is held in memory but what the operating system caches.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from img_deploy.errors import InputError
from img_deploy.features.folders import FeatureFolder

Floats: TypeAlias = npt.NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with videos read so far and videos in all."""

FORMAT = 1
INDEX = "index.json"


class Packed:
    """Sequences of one width end to end in one memory-mapped array; sequence k is ``packed[k]`` [n_k, W] float32."""

    def __init__(self, rows: Floats, lengths: npt.NDArray[np.int64]) -> None:
        self.rows, self.lengths = rows, lengths
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Floats:
        end = int(self._ends[index])
        return self.rows[end - int(self.lengths[index]) : end]


@dataclass(frozen=True, eq=False)
class ClipStore:
    """Visual and audio clips of a list of videos."""

    vids: tuple[str, ...]
    video: Packed
    audio: Packed
    """Of no rows where a video has no sound."""

    @property
    def clips(self) -> npt.NDArray[np.int64]:
        """Clips L of each video."""
        return self.video.lengths

    @property
    def has_audio(self) -> npt.NDArray[np.bool_]:
        return self.audio.lengths > 0


def open_clip_store(
    folder: FeatureFolder, vids: Sequence[str], cache: Path, progress: Progress | None = None
) -> ClipStore:
    """The store of some videos of a folder; made on first use, found again while the files stay as they are.

    Args:
        vids: videos of the folder.
        cache: folder that takes the arrays: 4 bytes per number, e.g. 2 GB for 500,000 clips of I3D.
    Raises:
        FeatureError: a video cannot be read. InputError: the cache cannot be written.
    """
    wanted = folder.wanted
    key = _key(
        [FORMAT, list(vids), asdict(wanted.video), wanted.audio and asdict(wanted.audio), wanted.max_clips],
        _listing(folder.path),
    )
    home = cache / f"clips-{key}"
    if not (home / INDEX).exists():
        _write(home, lambda place: _fill(place, folder, vids, progress))
    index = json.loads((home / INDEX).read_text("utf-8"))
    return ClipStore(tuple(index["vids"]), _open(home, "video", index), _open(home, "audio", index))


def open_text_store(
    folder: FeatureFolder, qids: Sequence[int], cache: Path, progress: Progress | None = None
) -> Packed:
    """Token features of queries, in the order of ``qids``; likewise made once. Raises FeatureError, InputError."""
    text = folder.wanted.text
    assert text is not None
    key = _key([FORMAT, list(qids), asdict(text)], _listing(folder.path))
    home = cache / f"text-{key}"
    if not (home / INDEX).exists():
        _write(home, lambda place: _fill_text(place, folder, qids, text.width, progress))
    return _open(home, "text", json.loads((home / INDEX).read_text("utf-8")))


def _fill(place: Path, folder: FeatureFolder, vids: Sequence[str], progress: Progress | None) -> None:
    wanted = folder.wanted
    clips = [folder.clips(vid) for vid in vids]
    with_audio = [count if folder.has_audio(vid) else 0 for vid, count in zip(vids, clips, strict=True)]
    video = _create(place / "video.npy", sum(clips), wanted.video.width)
    audio = _create(place / "audio.npy", sum(with_audio), wanted.audio.width if wanted.audio else 1)
    at_video = at_audio = 0
    for done, vid in enumerate(vids, 1):
        loaded = folder.load(vid)
        video[at_video : at_video + len(loaded.video)] = loaded.video
        at_video += len(loaded.video)
        if loaded.audio is not None:
            audio[at_audio : at_audio + len(loaded.audio)] = loaded.audio
            at_audio += len(loaded.audio)
        if progress is not None:
            progress(done, len(vids))
    _save_index(place, {"vids": list(vids), "video": clips, "audio": with_audio})


def _fill_text(place: Path, folder: FeatureFolder, qids: Sequence[int], width: int, progress: Progress | None) -> None:
    lengths = []
    # Lengths are known only once a file is open, and there may be GBs: rows are appended, the header comes last.
    with (place / "rows").open("wb") as file:
        for done, qid in enumerate(qids, 1):
            rows = folder.load_text(qid)
            file.write(rows.tobytes())
            lengths.append(len(rows))
            if progress is not None:
                progress(done, len(qids))
    packed = _create(place / "text.npy", sum(lengths), width)
    if sum(lengths):
        source = np.memmap(place / "rows", np.float32, "r", shape=packed.shape)
        for start in range(0, len(packed), 4096):
            packed[start : start + 4096] = source[start : start + 4096]
    (place / "rows").unlink()
    _save_index(place, {"text": lengths})


def _create(path: Path, rows: int, width: int) -> Floats:
    if not rows:  # an empty file cannot be mapped
        np.save(path, np.zeros((0, width), np.float32))
        return np.zeros((0, width), np.float32)
    return np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))


def _open(home: Path, name: str, index: dict[str, Any]) -> Packed:
    lengths = np.asarray(index[name], np.int64)
    rows = np.load(home / f"{name}.npy", mmap_mode="r" if lengths.sum() else None, allow_pickle=False)
    return Packed(rows, lengths)


def _save_index(place: Path, index: dict[str, Any]) -> None:
    (place / INDEX).write_text(json.dumps(index), "utf-8")


def _write(home: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary folder that takes its name when it is whole."""
    temporary = home.with_name(f".{home.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        try:
            os.replace(temporary, home)
        except OSError:
            if not (home / INDEX).exists():  # else another run was faster
                raise
    except OSError as error:
        raise InputError(
            f"{home.parent}: cannot keep features there ({error.strerror}); give another folder with --cache"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _key(settings: list[Any], files: Iterable[tuple[str, int, int]]) -> str:
    digest = hashlib.sha256(json.dumps(settings).encode())
    for entry in files:
        digest.update(repr(entry).encode())
    return digest.hexdigest()[:20]


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of change of every file under a folder: what tells that features were exchanged."""
    found = []
    for place, _, names in os.walk(folder, followlinks=True):
        for name in names:
            status = os.stat(os.path.join(place, name))
            found.append((os.path.join(place, name), status.st_size, status.st_mtime_ns))
    return sorted(found)
