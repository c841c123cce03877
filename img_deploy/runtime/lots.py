"""What is asked of which folder, and the answers of some pairs at a time: what one worker does of a run."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Generic, Literal, TypeVar
from weakref import WeakKeyDictionary

from img_deploy.errors import FeatureError, ImgDeployError, QueryError
from img_deploy.features.folders import FeatureFolder
from img_deploy.features.ids import by_video
from img_deploy.features.prepare import VideoFeatures
from img_deploy.runtime.backends.choose import AUTO
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, Query
from img_deploy.runtime.index import VideoIndex
from img_deploy.runtime.predictor import BATCH_SIZE, Predictor
from img_deploy.runtime.queries import Plan
from img_deploy.runtime.results import Answer
from img_deploy.runtime.spans import DEFAULT_NMS

LOT = 4
"""Batches of pairs whose answers are given out together: about a second of work that a killed run loses."""

Result = TypeVar("Result")
Key = TypeVar("Key")
Made = TypeVar("Made")
Owner = tuple[str, object] | None
"""What something is told of: a video's id, a query's place in the plan, or a pair, which has no other lot (None)."""


@dataclass(frozen=True)
class AskOptions:
    """``nms`` is the greatest IoU of two of the ``top_k`` moments of an answer."""

    top_k: int = 1
    nms: float = DEFAULT_NMS
    batch_size: int = BATCH_SIZE


@dataclass(frozen=True)
class Request:
    """What is asked of which folder; see ``img-deploy infer --help`` for each."""

    features: str | Path
    """A folder of features, or an index."""
    bundle: Path = Path("deploy")
    queries: Sequence[str] = ()
    queries_file: Path | None = None
    videos: Sequence[str] = ()
    durations: Path | None = None
    clip_seconds: float | None = None
    glove: Path | None = None
    text_features: Path | None = None
    backend: str = AUTO
    threads: int | None = None
    engine: Literal["local", "ray"] = "local"
    """This process, or the workers of a Ray cluster."""
    workers: int | None = None
    """Of the cluster; None for as many as it has room for."""
    options: AskOptions = field(default_factory=AskOptions)


@dataclass(frozen=True, eq=False)
class Asked:
    """A request with its files opened. ``durations`` are seconds by video id."""

    request: Request
    library: FeatureFolder | VideoIndex
    plan: Plan
    durations: Mapping[str, float]

    def seconds(self, vid: str, clips: int, query: Query) -> float | None:
        """Duration of a query's video, of ``clips`` clips before down-sampling; None where nothing tells it."""
        known = by_video(self.durations, vid) or query.seconds
        if known is None and self.request.clip_seconds is not None:
            return self.request.clip_seconds * clips
        return known


class Listener:
    """Hears what happens in a run. The base class ignores all events."""

    def skipped(self, error: ImgDeployError) -> None:
        """A video, a query or a pair cannot be used. Raising stops the run."""

    def remark(self, text: str) -> None:
        """Something about a video or a query that is used all the same."""

    def encoded(self, query: EncodedQuery) -> None:
        """A query is encoded; it knows of unknown and of cut words."""

    def begin(self, total: int, done: int) -> None:
        """So much is to be done, of which an earlier run has done some."""

    def settled(self, number: int) -> None:
        """So much more is done, or left out."""


@dataclass(frozen=True)
class Batch:
    """Videos that are encoded together, however many lots they have: what is encoded is kept while a lot holds it."""

    vids: tuple[str, ...]


@dataclass(frozen=True)
class Lot:
    """Some pairs of a batch of videos. Of a lot all are computed, or none."""

    batch: Batch
    pairs: tuple[tuple[str, int], ...]
    """A video of the batch and a row of its queries each."""
    last: bool
    """Of its batch."""


@dataclass
class Answered:
    """What became of a lot."""

    answers: list[Answer] = field(default_factory=list)
    told: list[tuple[Owner, str, object]] = field(default_factory=list)
    """Events of a :class:`Listener`. Several workers may tell the same of one owner."""

    def tell(self, owner: Owner, event: str, argument: object) -> None:
        self.told.append((owner, event, argument))

    def good(self, owner: Owner, result: Result | ImgDeployError) -> Iterator[Result]:
        """A result, unless it is an error, which is told."""
        if isinstance(result, ImgDeployError):
            self.tell(owner, "skipped", result)
        else:
            yield result


class Once(Generic[Key, Made]):
    """What is made by the first thread that wants it, while others wait.

    Args:
        made: where it is kept, by key.
    """

    def __init__(self, made: MutableMapping[Key, Future[Made]]) -> None:
        self._made, self._lock = made, Lock()

    def __call__(self, key: Key, make: Callable[[], Made]) -> Made:
        with self._lock:
            made = self._made.get(key)
            if first := made is None:
                made = self._made[key] = Future()
        if first:
            try:
                made.set_result(make())
            except BaseException as error:
                made.set_exception(error)
        return made.result()


class LotAnswerer:
    """Answers lots. Keeps the videos of batches in use, and the queries that are asked of all videos.

    Threads that answer lots of one batch share its videos; who encodes them tells of them.
    """

    def __init__(self, asked: Asked, predictor: Predictor) -> None:
        self.asked, self.predictor = asked, predictor
        self.plan, self.library, self.options = asked.plan, asked.library, asked.request.options
        self._videos = Once[Batch, dict[str, EncodedVideo]](WeakKeyDictionary())
        self._last: Batch | None = None  # stays in use though its lots may come one by one, from another process
        self._shared = Once[int, list[EncodedQuery | None]]({})  # by the first row of a group

    def __call__(self, lot: Lot) -> Answered:
        """Raises BackendError."""
        out = Answered()
        if self._last != lot.batch:
            self._last = lot.batch
        queries = self._encode_queries(lot, out)
        if any(encoded is not None for encoded in queries):
            videos = self._videos(lot.batch, partial(self._encode_videos, lot.batch.vids, out))
            pairs = [
                (video, encoded, self.asked.seconds(vid, video.source_clips, self.plan.queries(vid)[row]))
                for (vid, row), encoded in zip(lot.pairs, queries, strict=True)
                if encoded is not None and (video := videos.get(vid)) is not None
            ]
            options = self.options
            answers = self.predictor.ground_each(pairs, options.top_k, options.nms, options.batch_size)
            out.answers = [answer for one in answers for answer in out.good(None, one)]
        return out

    def _encode_videos(self, vids: Sequence[str], out: Answered) -> dict[str, EncodedVideo]:
        """The usable videos of a batch."""
        if isinstance(self.library, VideoIndex):
            return {video.vid: video for video in self.library.encoded(vids)}
        loaded: list[VideoFeatures] = []
        for vid, read in zip(vids, self.library.load_each(vids), strict=True):
            for features in out.good(("video", vid), read):
                loaded.append(features)
                for remark in features.remarks:
                    out.tell(("video", vid), "remark", remark)
        encoded = self.predictor.encode_features(loaded, self.options.batch_size)
        results = zip(loaded, encoded, strict=True)
        return {video.vid: video for one, result in results for video in out.good(("video", one.vid), result)}

    def _encode_queries(self, lot: Lot, out: Answered) -> list[EncodedQuery | None]:
        """The queries of a lot; None for one that cannot be asked.

        Queries of all videos are encoded once, in groups that do not depend on where a run began.
        """
        if not self.plan.shared:
            return self._encode_group([((vid, row), self.plan.queries(vid)[row]) for vid, row in lot.pairs], out)
        size, found = LOT * self.options.batch_size, []
        for _, row in lot.pairs:
            first = row - row % size
            found.append(self._shared(first, partial(self._encode_shared, first, size, out))[row - first])
        return found

    def _encode_shared(self, first: int, size: int, out: Answered) -> list[EncodedQuery | None]:
        return self._encode_group(list(enumerate(self.plan.shared[first : first + size], first)), out)

    def _encode_group(self, queries: Sequence[tuple[object, Query]], out: Answered) -> list[EncodedQuery | None]:
        prepared: dict[int, Query] = {}
        for row, (place, query) in enumerate(queries):
            try:
                prepared[row] = self._prepare(query)
            except (QueryError, FeatureError) as error:
                out.tell(("query", place), "skipped", error)
        encoded = self.predictor.encode_prepared(list(prepared.values()), self.options.batch_size)
        found: list[EncodedQuery | None] = [None] * len(queries)
        for row, result in zip(prepared, encoded, strict=True):
            owner = ("query", queries[row][0])
            for good in out.good(owner, result):
                found[row] = good
                out.tell(owner, "encoded", good)
        return found

    def _prepare(self, query: Query) -> Query:
        """A query with what the encoder takes. Raises QueryError, FeatureError."""
        if self.predictor.rules.text is None:
            return self.predictor.rules.query(query.sentence, query.qid)
        assert query.qid is not None  # the plan has seen to it
        return self.predictor.rules.query(self.library.load_text(query.qid), query.qid, query.sentence)
