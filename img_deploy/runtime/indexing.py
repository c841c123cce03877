"""Making and renewing an index: only new and changed videos are encoded, and every commit leaves a whole version."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from img_deploy.errors import FeatureError, ImgDeployError, InputError
from img_deploy.features.folders import FeatureFolder
from img_deploy.features.ids import by_video
from img_deploy.features.paths import is_remote, plain
from img_deploy.files import replacing_folder
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
        index.dataset.cleanup_old_versions(older_than=KEPT)
        return run.summary


def _opened(path: str, bundle: Bundle, store: Store | None) -> VideoIndex:
    if is_index(path):
        index = VideoIndex.open(path, bundle)
        if store not in (None, index.facts.store):
            raise InputError(f"{path}: holds {index.facts.store}, got --store {store}; drop the option or index anew")
        return index
    if not is_remote(path) and Path(path).exists() and (not Path(path).is_dir() or any(Path(path).iterdir())):
        raise InputError(f"{path}: holds something that is no index; give another path")
    facts = facts_of(bundle, store or "fp32")
    real = path if is_remote(path) else os.path.realpath(path)
    in_place = is_remote(path) or os.path.ismount(real)  # a mounted folder cannot be replaced
    try:
        # Made elsewhere: a kill between its files would leave a folder that is no index, and no empty place for one.
        with nullcontext(real) if in_place else replacing_folder(real) as place:
            lance_module().write_dataset(table_of(facts, []), str(place), schema=schema_of(facts), mode="create")
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: no index can be made there ({why(error)})") from None
    return VideoIndex.open(path, bundle)


@contextmanager
def only_writer(path: str, wait: float = 0.0) -> Iterator[None]:
    """Refuse a second writer, after so many seconds. The system drops the lock of a killed program; object stores have
    none.

    Raises InputError.
    """
    if is_remote(path):
        yield
        return
    from filelock import FileLock, Timeout

    target = Path(os.path.abspath(path))
    if not target.parent.is_dir():
        raise InputError(f"{path}: there is no folder {target.parent}; create it or give another path")
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        raise InputError(f"{path}: another program is writing it; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


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
        else:
            video, mark = one.result, self._marks[one.vid]
            if (error := self.index.facts.refusal(video)) is not None:
                return self.take(one._replace(result=error))
            seconds = by_video(self.durations, one.vid)
            sound = video.audio is not None
            entry = IndexedVideo(one.vid, video.clips, video.source_clips, sound, seconds, mark, one.digest)
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
            "fingerprint": [self._marks.get(vid, self._known[vid].fingerprint) for vid in names],
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
