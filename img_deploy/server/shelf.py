"""The videos that a server answers about: uploaded ones, and a folder of features or an index behind them.

An id from a request is looked up among known ids; it never becomes part of a path.
"""

import logging
import time
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any

from cachetools import LRUCache, TTLCache

from img_deploy.errors import FeatureError, ImgDeployError, InputError, is_utf8
from img_deploy.features.folders import FeatureFolder
from img_deploy.features.ids import by_video, known_spelling
from img_deploy.features.prepare import VideoFeatures
from img_deploy.runtime.encoded import EncodedVideo
from img_deploy.runtime.folder_encoder import digest_of
from img_deploy.runtime.index import IndexedVideo, VideoIndex, table_of
from img_deploy.runtime.indexing import drop_rows, only_writer
from img_deploy.runtime.predictor import Predictor
from img_deploy.server.batcher import BusyError

LOG = logging.getLogger(__name__)
LOOK_AGAIN = 1.0
"""Seconds after which it is asked whether a file was replaced, or the index written to by another program."""
WRITER_WAIT = 5.0
"""Seconds that an upload waits for another writer of the index."""


class UnknownVideoError(FeatureError):
    """There is no video of that id."""


@dataclass(frozen=True)
class VideoFacts:
    """What is told of a video. ``duration`` is in seconds, None where nothing tells it."""

    vid: str
    clips: int
    source_clips: int
    has_audio: bool
    duration: float | None


@dataclass(frozen=True)
class Loaded:
    """Features that are not encoded yet, and the fingerprint that their files had before they were read."""

    features: VideoFeatures
    mark: str


Fetched = EncodedVideo | Loaded | ImgDeployError


@dataclass(frozen=True)
class _Uploaded:
    video: EncodedVideo
    duration: float | None


class Shelf:
    """Blocks on files, so it is for threads; safe to use from several at once.

    Args:
        library: what lies behind the uploads; None for uploads alone.
        durations: seconds by video id.
        clip_seconds: seconds of a clip before down-sampling, where a duration is not known.
        most_uploads: videos kept in memory, where ``library`` is no index.
        cache_bytes: of encodings that are kept besides, the least recently used of which go first.
    """

    def __init__(
        self,
        predictor: Predictor,
        library: FeatureFolder | VideoIndex | None,
        durations: Mapping[str, float] | None = None,
        clip_seconds: float | None = None,
        most_uploads: int = 1000,
        cache_bytes: int = 256 << 20,
    ) -> None:
        self.predictor, self.durations, self.clip_seconds = predictor, durations or {}, clip_seconds
        self.most_uploads = most_uploads
        self._uploads: dict[str, _Uploaded] = {}
        self._cache: LRUCache = LRUCache(cache_bytes, getsizeof=_bytes)
        self._lock = Lock()
        self._hold(library)

    def _hold(self, library: FeatureFolder | VideoIndex | None) -> None:
        self.library = library
        names = [] if library is None else library.videos()
        self._names = {name: None for name in names if is_utf8(name)}
        if left_out := len(names) - len(self._names):
            LOG.warning("%s: %d videos are left out, no UTF-8 can spell their ids", self.where, left_out)
        self._looked = time.monotonic()
        self._marks: TTLCache = TTLCache(4096, LOOK_AGAIN)
        """The library's fingerprints that were read a moment ago."""

    def __len__(self) -> int:
        return len(self.videos())

    @property
    def where(self) -> str:
        """What messages call it."""
        return "the server" if self.library is None else str(self.library.path)

    def videos(self) -> list[str]:
        """Ids of all videos, sorted."""
        with self._lock:
            return sorted(self._names | dict.fromkeys(self._uploads)) if self._uploads else list(self._names)

    def find(self, vid: str) -> str:
        """The id as it is spelled here. Raises UnknownVideoError."""
        with self._lock:
            known: ChainMap[str, Any] = ChainMap(self._uploads, self._names)
            if (name := known_spelling(vid, known)) is not None:
                return name
            count = len(known)
        raise UnknownVideoError(f"no video {vid[:80]!r} among {count}; GET /v1/videos lists them")

    def facts(self, vid: str) -> VideoFacts:
        """Of a video by its id as spelled here. Raises FeatureError: its file is broken."""
        uploaded, library = self._uploads.get(vid), self.library
        if uploaded is not None:
            video = uploaded.video
            seconds = self.seconds(vid, video.source_clips)
            return VideoFacts(vid, video.clips, video.source_clips, video.audio is not None, seconds)
        if library is None:
            raise UnknownVideoError(f"no video {vid[:80]!r}; GET /v1/videos lists them")
        source = library.source_clips(vid)
        return VideoFacts(vid, library.clips(vid), source, library.has_audio(vid), self.seconds(vid, source))

    def seconds(self, vid: str, source_clips: int) -> float | None:
        """Duration of a video of so many clips before down-sampling; None where nothing tells it."""
        uploaded = self._uploads.get(vid)
        known = by_video(self.durations, vid) if uploaded is None else uploaded.duration
        if known is None and isinstance(self.library, VideoIndex):
            with suppress(FeatureError):
                known = self.library.entry(vid).duration
        return self.clip_seconds * source_clips if known is None and self.clip_seconds is not None else known

    def fetch(self, vids: Sequence[str]) -> list[Fetched]:
        """Each video encoded; or its features, which are then for the caller to encode and to :meth:`keep`; or why not.

        Args:
            vids: ids as spelled here.

        Raises:
            BusyError: the index cannot be read.
        """
        with self._lock:
            library, marks = self.library, self._marks
        found: dict[str, Fetched] = {}
        missing = {}
        for vid in vids:
            uploaded = self._uploads.get(vid)
            try:
                if uploaded is not None:
                    found[vid] = uploaded.video
                elif library is None or vid not in library:
                    found[vid] = UnknownVideoError(f"no video {vid[:80]!r} any more; it was deleted")
                else:
                    mark = library.fingerprint(vid)
                    with self._lock:
                        marks[vid], kept = mark, self._cache.get((vid, mark))
                    if kept is not None:
                        found[vid] = kept
                    elif isinstance(library, FeatureFolder):
                        found[vid] = Loaded(library.load(vid), mark)
                    else:
                        missing[vid] = mark
            except FeatureError as error:
                found[vid] = error
        if missing and isinstance(library, VideoIndex):
            try:
                videos = library.encoded(list(missing))
            except FeatureError as error:  # no fault of who asks: all of them are in the index
                raise BusyError(str(error)) from None
            for video in videos:
                found[video.vid] = video
                self.keep(video, missing[video.vid])
        return [found[vid] for vid in vids]

    def at_hand(self, vids: Sequence[str]) -> dict[str, EncodedVideo] | None:
        """The encodings of videos, by id; None where a file has to be looked at for one of them. Never blocks."""
        if self._outdated():
            return None
        found = {}
        with self._lock:
            for vid in vids:
                uploaded = self._uploads.get(vid)
                kept = self._cache.get((vid, self._marks.get(vid))) if uploaded is None else uploaded.video
                if kept is None:
                    return None
                found[vid] = kept
        return found

    def keep(self, video: EncodedVideo, mark: str) -> None:
        """Have an encoding of the library ready for as long as the video has this fingerprint."""
        with self._lock, suppress(ValueError):  # larger than the whole cache
            self._cache[video.vid, mark] = video

    def refresh(self) -> None:
        """Take over what another program, or another worker, has written to the index since. Raises BusyError."""
        library = self.library
        if isinstance(library, VideoIndex) and self._outdated():
            self._looked = time.monotonic()
            if not library.is_latest:
                self._take_over(library)

    def _outdated(self) -> bool:
        return isinstance(self.library, VideoIndex) and time.monotonic() - self._looked >= LOOK_AGAIN

    def _take_over(self, index: VideoIndex) -> None:
        last = self._last_version(index)
        with self._lock:
            self._hold(last)

    def _last_version(self, index: VideoIndex) -> VideoIndex:
        try:
            return VideoIndex.open(index.path, self.predictor.bundle, self.predictor.rules.text)
        except InputError as error:  # no fault of who asks
            raise BusyError(str(error)) from None

    def add(self, features: VideoFeatures, video: EncodedVideo, duration: float | None) -> None:
        """Take a video in, in place of one of its id: into the index, or into memory where there is none.

        Raises:
            FeatureError: its values are beyond the index's precision.
            BusyError: as many are in memory as may be, or another program keeps writing the index.
        """
        if not isinstance(self.library, VideoIndex):
            with self._lock:
                if len(self._uploads) >= self.most_uploads and video.vid not in self._uploads:
                    raise BusyError(
                        f"the server keeps at most {self.most_uploads} uploaded videos in memory; delete some, or "
                        "serve an index"
                    )
                self._uploads[video.vid] = _Uploaded(video, duration)
            return
        facts, sound = self.library.facts, video.audio is not None
        if (refusal := facts.refusal(video)) is not None:
            raise refusal
        entry = IndexedVideo(video.vid, video.clips, video.source_clips, sound, duration, "", digest_of(features))

        def put(index: VideoIndex) -> None:
            merge = index.dataset.merge_insert("vid").when_matched_update_all().when_not_matched_insert_all()
            merge.execute(table_of(facts, [(entry, video)]))

        self._write(self.library, put)

    def delete(self, vid: str) -> None:
        """Forget a video.

        Raises:
            UnknownVideoError: there is none of that id.
            InputError: it lies in a folder of features, which the server does not change.
            BusyError: another program keeps writing the index.
        """
        self.refresh()
        vid = self.find(vid)
        with self._lock:
            if self._uploads.pop(vid, None) is not None:
                return
        if not isinstance(self.library, VideoIndex):
            raise InputError(f"video {vid!r}: lies in the server's folder of features, which it does not change")
        self._write(self.library, lambda index: drop_rows(index.dataset, [vid]))

    def _write(self, index: VideoIndex, change: Callable[[VideoIndex], None]) -> None:
        try:
            with only_writer(str(index.path), WRITER_WAIT):
                change(self._last_version(index))
        except InputError as error:
            raise BusyError(str(error)) from None
        self._take_over(index)


def _bytes(video: EncodedVideo) -> int:
    return int(video.visual.nbytes + (0 if video.audio is None else video.audio.nbytes))
