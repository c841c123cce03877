"""Making and renewing an index: only new and changed videos are encoded, and every commit leaves a whole version."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from img_deploy.errors import FeatureError, ImgDeployError, InputError
from img_deploy.features.folders import FeatureFolder
from img_deploy.features.ids import by_video
from img_deploy.features.paths import is_remote, plain
from img_deploy.runtime.batching import alike
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.encoded import EncodedVideo
from img_deploy.runtime.folder_encoder import Encoded, FolderEncoder, Known
from img_deploy.runtime.index import (
    IndexedVideo,
    Store,
    VideoIndex,
    facts_of,
    is_index,
    lance_module,
    schema_of,
    table_of,
    why,
)
from img_deploy.runtime.lots import Listener
from img_deploy.runtime.predictor import BATCH_SIZE
from img_deploy.runtime.workers import Workers

if TYPE_CHECKING:
    import lance

COMMIT_SECONDS = 2.0
"""Work between two commits: what a killed run loses at most."""
KEPT = timedelta(hours=1)
"""Versions younger than this stay: others may be reading them."""
MOST_FILES = 100
"""Files of an index, before small ones are merged: rows are written twice then, and lie there twice for a while."""
FILE_ROWS = 16_384
"""Rows of a merged file, which is not written again."""

LOCK = ".lock"
"""The file of an index that its writer locks."""
BEFORE_ROWS = {LOCK, "_transactions", "_versions"}
"""What is in the folder of an index before its first rows."""


@dataclass
class IndexSummary:
    """Videos by what became of them."""

    added: int = 0
    changed: int = 0
    kept: int = 0
    skipped: int = 0
    vanished: tuple[str, ...] = ()
    """In the index, but no longer in the folder."""
    pruned: bool = False
    """Whether those were dropped."""


def index_folder(
    folder: FeatureFolder,
    workers: Workers,
    path: str,
    store: Store | None = None,
    durations: Mapping[str, float] | None = None,
    prune: bool = False,
    batch_size: int = BATCH_SIZE,
    listener: Listener | None = None,
) -> IndexSummary:
    """Bring an index up to a feature folder.

    A video is unchanged where its files are those of before by size, times and place; else its features decide. A
    video whose files cannot be read any more keeps its row. A killed run leaves the last commit; the next one goes on
    from there.

    Args:
        path: the index, made where there is none.
        store: what values are rounded to; None: what an old index has, fp32 for a new one.
        durations: seconds by video id.
        prune: drop videos that are no longer in the folder.

    Raises:
        InputError: something else lies at ``path``, it is of another bundle or store, or another program writes it.
        BackendError: the backend failed.
    """
    listener, path = listener or Listener(), plain(path)
    with only_writer(path):
        index = _opened(path, workers.bundle, store)
        run = _Indexing(folder, index, durations or {}, listener)
        todo = run.survey()
        listener.begin(len(todo), 0)
        for _, encoded in workers.map(partial(FolderEncoder, folder, batch_size), run.batches(todo, batch_size)):
            for one in encoded:
                run.take(one)
        run.commit()
        run.renew()
        if prune:
            run.prune()
        index.dataset.checkout_latest()
        if len(index.dataset.get_fragments()) > MOST_FILES:
            index.dataset.optimize.compact_files(target_rows_per_fragment=FILE_ROWS)
        # What a killed writer left belongs to no version; where there is a lock, no other writer is at work on it.
        index.dataset.cleanup_old_versions(older_than=KEPT, delete_unverified=not is_remote(path))
        return run.summary


def _opened(path: str, bundle: Bundle, store: Store | None) -> VideoIndex:
    if _is_free(path):
        facts = facts_of(bundle, store or "fp32")
        try:
            lance_module().write_dataset(table_of(facts, []), path, schema=schema_of(facts), mode="create")
        except (ValueError, OSError) as error:
            raise InputError(f"{path}: no index can be made there ({why(error)})") from None
    index = VideoIndex.open(path, bundle)
    if store not in (None, index.facts.store):
        raise InputError(f"{path}: holds {index.facts.store}, got --store {store}; drop the option or index anew")
    return index


def _is_free(path: str) -> bool:
    """Whether nothing lies there, or what a kill leaves of an index without a version."""
    if is_remote(path):
        return not is_index(path)
    place = Path(path)
    if not place.is_dir():
        return not place.exists()
    return not any(place.glob("_versions/*.manifest")) and {one.name for one in place.iterdir()} <= BEFORE_ROWS


@contextmanager
def only_writer(path: str, wait: float = 0.0) -> Iterator[None]:
    """Make the folder of an index, and refuse a second writer, after so many seconds.

    The system drops the lock of a killed program; object stores have none.

    Raises:
        InputError: something else lies there, nothing can be made there, or another program is at work.
        ImgDeployError: writing failed.
    """
    with nullcontext() if is_remote(path) else _locked(path, wait):
        try:
            yield
        except BrokenPipeError:  # of what listens, not of the index
            raise
        except OSError as error:
            raise ImgDeployError(f"{path}: writing failed ({why(error)}); what is in it stays as it is") from None


@contextmanager
def _locked(path: str, wait: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    if not _is_free(path) and not is_index(path):
        raise InputError(f"{path}: holds something that is no index; give another path")
    folder = Path(os.path.realpath(path))  # a link may lead to a folder that is not there yet
    try:
        folder.mkdir(exist_ok=True)
        held = FileLock(folder / LOCK).acquire(timeout=wait)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no folder {folder.parent}; create it or give another path") from None
    except Timeout:
        raise InputError(f"{path}: another program is writing it; wait for it to end") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another path") from None
    with held:
        yield


class _Indexing:
    """One run of :func:`index_folder`."""

    def __init__(
        self, folder: FeatureFolder, index: VideoIndex, durations: Mapping[str, float], listener: Listener
    ) -> None:
        self.folder, self.index, self.durations, self.listener = folder, index, durations, listener
        self.summary = IndexSummary()
        self._rows: list[tuple[IndexedVideo, EncodedVideo]] = []
        self._touched: set[str] = set()  # other files, the same features
        self._marks: dict[str, str] = {}
        self._known = {vid: index.entry(vid) for vid in index.videos()}
        self._last = time.monotonic()

    def survey(self) -> list[str]:
        """The videos that have to be looked at: new ones, and those whose files are not those of before."""
        todo = []
        here = self.folder.videos()
        for vid in here:
            self._marks[vid] = self.folder.fingerprint(vid)
            if vid in self._known and self._known[vid].fingerprint == self._marks[vid]:
                self.summary.kept += 1
            else:
                todo.append(vid)
        self.summary.vanished = tuple(sorted(set(self._known) - set(here)))
        return todo

    def batches(self, vids: Sequence[str], batch_size: int) -> Iterator[list[Known]]:
        """What there is to encode, a batch at a time."""

        def refused(vid: str, error: FeatureError) -> None:
            self.take(Encoded(vid, "", error))

        for batch in alike(vids, self.folder, batch_size, refused):
            yield [(vid, self._known[vid].digest if vid in self._known else None) for vid in batch]

    def take(self, one: Encoded) -> None:
        """Keep an encoding, and commit now and then."""
        if isinstance(one.result, ImgDeployError):
            self._skip(one.result)
        elif one.result is None:
            self.summary.kept += 1
            self._touched.add(one.vid)
            self._known[one.vid] = replace(self._known[one.vid], fingerprint=self._marks[one.vid])
        else:
            video, mark = one.result, self._marks[one.vid]
            if (error := self.index.facts.refusal(video)) is not None:
                return self.take(one._replace(result=error))
            seconds, before = by_video(self.durations, one.vid), self._known.get(one.vid)
            if seconds is None and before is not None:
                seconds = before.duration
            sound = video.audio is not None
            entry = IndexedVideo(one.vid, video.clips, video.source_clips, sound, seconds, mark, one.digest)
            if one.vid in self._known:
                self._known[one.vid] = entry
            self._rows.append((entry, video))
            if time.monotonic() - self._last > COMMIT_SECONDS:
                self.commit()
            return None
        self.listener.settled(1)
        return None

    def _skip(self, error: ImgDeployError) -> None:
        self.summary.skipped += 1
        self.listener.skipped(error)

    def commit(self) -> None:
        """Append the rows so far, in one step; those of changed videos replace the old ones."""
        for changed in (False, True):
            rows = [row for row in self._rows if (row[0].vid in self._known) is changed]
            if not rows:
                continue
            table = table_of(self.index.facts, rows)
            if changed:
                self.index.dataset.merge_insert("vid").when_matched_update_all().execute(table)
                self.summary.changed += len(rows)
            else:
                lance_module().write_dataset(table, self.index.dataset, mode="append")
                self.summary.added += len(rows)
            self.index.dataset.checkout_latest()
        self.listener.settled(len(self._rows))
        self._rows, self._last = [], time.monotonic()

    def renew(self) -> None:
        """Take over new times of unchanged files, and durations that are told now."""
        import pyarrow

        told = {vid: by_video(self.durations, vid) for vid in self._known}
        names = [
            vid for vid, entry in self._known.items() if vid in self._touched or told[vid] not in (None, entry.duration)
        ]
        if not names:
            return
        columns = {
            "vid": names,
            "fingerprint": [self._known[vid].fingerprint for vid in names],
            "duration": pyarrow.array([told[vid] or self._known[vid].duration for vid in names], pyarrow.float64()),
        }
        # Of these columns alone, in one commit: a merge_insert would hold the encodings of all videos.
        lance, dataset = lance_module(), self.index.dataset
        table = pyarrow.table(columns)
        done = [fragment.update_columns(table, left_on="vid") for fragment in dataset.get_fragments()]
        fields = sorted({field for _, modified in done for field in modified})
        change = lance.LanceOperation.Update(updated_fragments=[one for one, _ in done], fields_modified=fields)
        lance.LanceDataset.commit(dataset.uri, change, read_version=dataset.version)

    def prune(self) -> None:
        """Drop the videos that are no longer in the folder."""
        for first in range(0, len(self.summary.vanished), 1000):
            self.index.dataset.checkout_latest()
            drop_rows(self.index.dataset, self.summary.vanished[first : first + 1000])
        self.summary.pruned = True


def drop_rows(dataset: "lance.LanceDataset", vids: Sequence[str]) -> None:
    """Delete the rows of some videos, in one step."""
    quoted = ", ".join("'{}'".format(vid.replace("'", "''")) for vid in vids)
    dataset.delete(f"vid IN ({quoted})")
