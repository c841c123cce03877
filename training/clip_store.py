"""Features of many videos as one memory-mapped array per modality, read by slices.

Files are read once, by the readers that inference uses, down-sampled and aligned, and kept: twenty thousand videos
then stream from disk, and nothing of them is held in memory but what the operating system caches.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from img_deploy.errors import FeatureError, InputError
from img_deploy.features.folders import FeatureFolder
from img_deploy.files import replacing_folder, write_text
from img_deploy.text.tokens import MAX_WORDS

Floats: TypeAlias = npt.NDArray[np.float32]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with videos read so far and videos in all."""

FORMAT = 2
INDEX = "index.json"
MOST_COPIES = 8
"""Copies that a cache keeps: the last used."""
_OURS = re.compile(r"(clips|text)-[0-9a-f]{20}(-[0-9a-f]{20})?|\.(clips|text)-[0-9a-f]{20}.*")
"""Copies, those of version 0.1 included, and what killed programs leave of them."""


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
    left_out: dict[str, str]
    """What is wrong with the videos that could not be read, by id."""
    remarks: tuple[str, ...] = ()
    """What looks odd about the values of the others, a line each."""

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
        FeatureError: no video can be read. InputError: the cache cannot be written.
    """
    wanted = folder.wanted
    settings = [*vids, wanted.video, wanted.audio, wanted.max_clips]

    def fill(place: Path) -> dict[str, Any]:
        lengths: dict[str, list[int]] = {"video": [], "audio": []}
        found: list[str] = []
        remarks: list[str] = []
        left_out: dict[str, str] = {}
        audio_width = wanted.audio.width if wanted.audio else 1
        with _rows(place, "video", wanted.video.width) as video, _rows(place, "audio", audio_width) as audio:
            for done, vid in enumerate(vids, 1):
                try:
                    features = folder.load(vid)
                except FeatureError as error:
                    left_out[vid] = str(error)
                else:
                    found.append(vid)
                    remarks += features.remarks
                    lengths["video"].append(video(features.video))
                    lengths["audio"].append(0 if features.audio is None else audio(features.audio))
                if progress is not None:
                    progress(done, len(vids))
        if not found:
            raise FeatureError(
                f"{folder.path}: none of {len(vids)} videos can be read; {next(iter(left_out.values()))}"
            )
        return {"vids": found, "left_out": left_out, "remarks": remarks, "lengths": lengths}

    index, arrays = _copy(cache, "clips", [settings, folder.path], map(folder.fingerprint, vids), fill)
    return ClipStore(tuple(index["vids"]), **arrays, left_out=index["left_out"], remarks=tuple(index["remarks"]))


def open_text_store(
    folder: FeatureFolder, qids: Sequence[int], cache: Path, progress: Progress | None = None
) -> tuple[Packed, dict[int, str]]:
    """Token features of queries, in the order of ``qids``; likewise made once.

    Returns:
        The features, of no rows where a query's cannot be read, and what is wrong with those queries, by id.
    Raises:
        InputError: the cache cannot be written.
    """
    text = folder.wanted.text
    assert text is not None

    def fill(place: Path) -> dict[str, Any]:
        lengths, left_out = [], []
        with _rows(place, "text", text.width) as append:
            for done, qid in enumerate(qids, 1):
                try:
                    lengths.append(append(folder.load_text(qid, MAX_WORDS)))
                except FeatureError as error:
                    lengths.append(0)
                    left_out.append((qid, str(error)))
                if progress is not None:
                    progress(done, len(qids))
        return {"lengths": {"text": lengths}, "left_out": left_out}

    def identity(qid: int) -> str:
        try:
            return folder.text_fingerprint(qid)
        except FeatureError:
            return "missing"

    index, arrays = _copy(cache, "text", [qids, text, folder.path], map(identity, qids), fill)
    return arrays["text"], dict(index["left_out"])


def _copy(
    cache: Path, what: str, settings: Sequence[Any], files: Iterator[str], fill: Callable[[Path], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Packed]]:
    """The index and the arrays of a copy: the one of these settings and files, or a new one in the place of others.

    Args:
        settings: what is kept, in values whose ``repr`` tells; paths are resolved.
        files: identity of each file behind it.
        fill: writes the arrays into a folder and returns the index.
    """
    wanted = [os.path.realpath(one) if isinstance(one, Path) else one for one in (FORMAT, *settings)]
    prefix = f"{what}-{_digest(repr(wanted))}"
    home = cache / f"{prefix}-{_digest(*files)}"
    found = _opened(home)
    if found is None:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _sole_writer(cache) as sole:
                found = _opened(home)  # another process may have made it meanwhile
                if found is None:
                    _tidy(cache, prefix, sole)
                    with replacing_folder(home) as place:
                        write_text(place / INDEX, json.dumps(fill(place)))
                    found = _opened(home)
        except OSError as error:
            raise InputError(
                f"{cache}: cannot keep features there ({error.strerror}); give another folder with --cache"
            ) from None
        if found is None:
            raise InputError(f"{home}: cannot be read as it was written; remove it, or give another --cache")
    with suppress(OSError):  # a folder that may only be read
        os.utime(home)
    return found


def _opened(home: Path) -> tuple[dict[str, Any], dict[str, Packed]] | None:
    """A copy that is there and whole; None otherwise."""
    try:
        index = json.loads((home / INDEX).read_text("utf-8"))
        arrays = {}
        for name, lengths in index["lengths"].items():
            rows = np.load(home / f"{name}.npy", mmap_mode="r" if sum(lengths) else None, allow_pickle=False)
            if rows.dtype != np.float32 or rows.ndim != 2 or len(rows) != sum(lengths):
                return None
            arrays[name] = Packed(rows, np.asarray(lengths, np.int64))
        return index, arrays
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError):
        return None


def _tidy(cache: Path, prefix: str, sole: bool) -> None:
    """Remove copies of the same settings whose files have changed, all but the last used of the others, those of
    another format, and (where no other process can be writing) what killed programs left."""
    copies = []
    for path in cache.iterdir():
        if not _OURS.fullmatch(path.name) or (path.name.startswith(".") and not sole):
            continue
        if path.name.startswith((".", prefix)) or path.name.count("-") == 1:
            shutil.rmtree(path, ignore_errors=True)
        else:
            copies.append(path)
    for path in sorted(copies, key=os.path.getmtime)[: -(MOST_COPIES - 1)]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _sole_writer(cache: Path) -> Iterator[bool]:
    """Waits until no other process writes into the cache. False where the system cannot tell."""
    with (cache / ".lock").open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process, however that ends
        except (ImportError, OSError):
            yield False
        else:
            yield True


@contextmanager
def _rows(place: Path, name: str, width: int) -> Iterator[Callable[[Floats], int]]:
    """A function that appends rows [n, W] to ``<name>.npy`` and returns their number.

    They are written, not mapped: where the disk is full that is an error, and not the end of the process.
    """
    count = 0
    with (place / f"{name}.npy").open("wb") as file:

        def append(rows: Floats) -> int:
            nonlocal count
            file.write(np.ascontiguousarray(rows, np.float32).data)
            count += len(rows)
            return len(rows)

        _write_header(file, 0, width)
        start = file.tell()
        yield append
        file.seek(0)
        _write_header(file, count, width)
        assert file.tell() == start, "numpy leaves room for any number of rows"
        file.flush()
        os.fsync(file.fileno())


def _write_header(file: IO[bytes], rows: int, width: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, header)


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:20]
