"""One run of queries over a folder: from paths and options to answers, a batch of videos at a time.

Each video is read and encoded once, however many queries it gets, and its pairs are grounded as soon as its batch is
encoded; a folder of any size is never held in memory. What cannot be read or answered is reported and left out.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from img_deploy.durations import read_durations
from img_deploy.errors import FeatureError, ImgDeployError, InputError, QueryError
from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.features.ids import by_video
from img_deploy.features.prepare import VideoFeatures
from img_deploy.files import sha256
from img_deploy.runtime.backends.choose import AUTO, choose
from img_deploy.runtime.batching import alike
from img_deploy.runtime.bundle import MANIFEST, Bundle
from img_deploy.runtime.encoded import EncodedQuery, EncodedVideo, Query
from img_deploy.runtime.index import VideoIndex, is_index
from img_deploy.runtime.inputs import InputRules, input_rules
from img_deploy.runtime.predictor import BATCH_SIZE, Predictor
from img_deploy.runtime.queries import Plan, plan_queries
from img_deploy.runtime.results import Answer, RowKey
from img_deploy.runtime.spans import DEFAULT_NMS
from img_deploy.runtime.stages import Pair
from img_deploy.text.glove import Progress, check_glove
from img_deploy.text.tokens import tokenize

Result = TypeVar("Result")

LOT = 4
"""Batches of pairs whose answers are given out together: about a second of work that a killed run loses."""


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
    options: AskOptions = field(default_factory=AskOptions)


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


@dataclass(frozen=True, eq=False)
class Session:
    """An opened request. ``durations`` are seconds by video id."""

    request: Request
    predictor: Predictor
    library: FeatureFolder | VideoIndex
    plan: Plan
    durations: Mapping[str, float]

    def answers(self, done: Set[RowKey] = frozenset(), listener: Listener | None = None) -> Iterator[list[Answer]]:
        """Answers in the plan's order, some at a time, without those in ``done``.

        A run that goes on after an interruption computes the very same batches, so its rows are those of a run that
        was not interrupted.

        Raises:
            BackendError: the backend failed. What was yielded before is good.
        """
        return _Run(self, done, listener or Listener()).answers()

    def seconds(self, vid: str, clips: int, query: Query) -> float | None:
        """Duration of a query's video, of ``clips`` clips before down-sampling; None where nothing tells it."""
        known = by_video(self.durations, vid) or query.seconds
        if known is None and self.request.clip_seconds is not None:
            return self.request.clip_seconds * clips
        return known

    def notes(self) -> list[str]:
        """What a user should know before the answers, a line each."""
        predictor, videos = self.predictor, self.plan.videos
        notes = [str(predictor.choice), *self.library.notes, *self.plan.notes]
        if self.durations and not any(by_video(self.durations, vid) for vid in videos):
            some = next(iter(self.durations))
            notes.append(
                f"warning: {self.request.durations}: none of its {len(self.durations)} ids (e.g. {some}) is that of a "
                f"video (e.g. {videos[0]}); use the ids of the feature files"
            )
        unknown = [vid for vid in videos if any(self.seconds(vid, 1, q) is None for q in self.plan.queries(vid)[:1])]
        if len(unknown) == len(videos):
            notes.append(
                "no durations: moments are given in clips and as fractions of the video; "
                "--durations FILE or --clip-seconds X gives seconds"
            )
        elif unknown:
            notes.append(
                f"no duration of {len(unknown)} of {len(videos)} videos ({', '.join(unknown[:3])}"
                f"{', ...' if len(unknown) > 3 else ''}): their moments are given in clips and fractions alone"
            )
        return notes

    def sources(self) -> dict[str, str]:
        """What tells the features of each video from changed ones: a resumed run must not mix answers of both."""
        return {vid: self.library.fingerprint(vid) for vid in self.plan.videos}

    def settings(self) -> dict[str, Any]:
        """What the answers depend on, as JSON types: a run is resumed only with the same."""
        request = self.request
        return {
            "bundle": sha256(self.predictor.bundle.folder / MANIFEST),
            "backend": self.predictor.backend,
            "features": os.path.realpath(request.features),
            "queries": _digest([[query.qid, query.sentence] for query in self.plan.all_queries()]),
            "top-k": request.options.top_k,
            "nms": request.options.nms,
            "durations": _digest(sorted(self.durations.items())) if self.durations else None,
            "clip-seconds": request.clip_seconds,
            "glove": None if request.glove is None else os.path.realpath(request.glove),
        }


def open_session(request: Request, glove_progress: Progress | None = None) -> Session:
    """Open bundle, folder, queries and durations. What is wrong with any of them is found before work begins.

    Args:
        glove_progress: called with bytes read and bytes of the file while a GloVe file is read.

    Raises:
        InputError: an option, a file or a folder is wrong, or does not fit the bundle.
        BackendError: the backend asked for does not work here.
    """
    if request.durations is not None and request.clip_seconds is not None:
        raise InputError("--durations and --clip-seconds: got both, expected one of them")
    if request.clip_seconds is not None and not 0 < request.clip_seconds < float("inf"):
        raise InputError(f"--clip-seconds: got {request.clip_seconds}, expected more than 0 seconds")
    durations = {} if request.durations is None else read_durations(request.durations)
    bundle = Bundle.open(request.bundle)
    rules = input_rules(bundle)
    if rules.text is None and request.text_features is not None:
        raise InputError(f"{request.text_features}: this bundle takes sentences; drop --text-features")
    if rules.vocabulary is None and request.glove is not None:
        raise InputError(f"{request.glove}: this bundle takes {rules.text} features, not words; drop --glove")
    if request.glove is not None:
        check_glove(request.glove)  # also where it turns out not to be needed
    library: FeatureFolder | VideoIndex
    if is_index(request.features):
        library = VideoIndex.open(request.features, bundle, rules.text, request.text_features)
        durations = durations or library.durations()
    else:
        library = open_folder(
            request.features, rules.video, rules.audio, rules.text, rules.max_clips, text_dir=request.text_features
        )
    plan = plan_queries(library, request.queries, request.queries_file, request.videos)
    if request.glove is not None:
        rules = _widened(rules, plan, request.glove, glove_progress)
    for sentence in request.queries:
        rules.query(sentence)  # one given by hand is refused at once, not skipped
    predictor = Predictor(bundle, rules, choose(bundle, request.backend, request.threads))
    return Session(request, predictor, library, plan, durations)


def _widened(rules: InputRules, plan: Plan, glove: Path, progress: Progress | None) -> InputRules:
    """The rules with the words of all queries that the GloVe file knows."""
    tokens = []
    for sentence in dict.fromkeys(query.sentence for query in plan.all_queries()):
        try:
            tokens.append(tokenize(sentence, rules.max_words, rules.max_chars))
        except QueryError:
            continue  # reported when its turn comes
    assert rules.vocabulary is not None
    return replace(rules, vocabulary=rules.vocabulary.widen_for(tokens, glove, progress))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class _Run:
    """The loop of a session's answers."""

    def __init__(self, session: Session, done: Set[RowKey], listener: Listener) -> None:
        self.session, self.done, self.listener = session, done, listener
        self.predictor, self.library, self.plan = session.predictor, session.library, session.plan
        self.options = session.request.options
        self._closed: set[str] = set()  # videos of which nothing more comes
        self._shared: dict[int, EncodedQuery | None] = {}  # by index; None: cannot be asked

    def answers(self) -> Iterator[list[Answer]]:
        """Answers as their batches are ready, put back into the plan's order."""
        waiting = deque(self.plan.videos)
        ready: dict[str, list[Answer]] = {}
        for batch in alike(self.plan.videos, self.library, self.options.batch_size, self._close):
            for answers in self._answer(batch):
                for answer in answers:
                    ready.setdefault(answer.vid, []).append(answer)
                lot: list[Answer] = []
                while waiting:
                    lot += ready.pop(waiting[0], [])
                    if waiting[0] not in self._closed:
                        break
                    self._closed.discard(waiting.popleft())
                if lot:
                    yield lot

    def _close(self, vid: str, error: FeatureError) -> None:
        """Leave a video out."""
        self.listener.skipped(error)
        self.listener.settled(sum(self._open(vid, query) for query in self.plan.queries(vid)))
        self._closed.add(vid)

    def _open(self, vid: str, query: Query) -> bool:
        return (vid, query.qid, query.sentence) not in self.done

    def _answer(self, batch: Sequence[str]) -> Iterator[list[Answer]]:
        """The answers of some videos that are not done yet, in lots; of a lot all are computed, or none."""
        pairs = ((vid, row, query) for vid in batch for row, query in enumerate(self.plan.queries(vid)))
        videos: dict[str, EncodedVideo] | None = None
        while lot := list(islice(pairs, LOT * self.options.batch_size)):
            still_open = sum(self._open(vid, query) for vid, _, query in lot)
            queries = self._encode_queries(lot) if still_open else []
            if any(encoded is not None for encoded in queries):
                videos = self._encode_videos(batch) if videos is None else videos
                pairs_of_lot = [
                    (videos[vid], encoded, self.session.seconds(vid, videos[vid].source_clips, query))
                    for (vid, _, query), encoded in zip(lot, queries, strict=True)
                    if encoded is not None and vid in videos
                ]
                yield self._ground(pairs_of_lot)
            self.listener.settled(still_open)
        self._closed.update(batch)
        yield []

    def _encode_videos(self, vids: Sequence[str]) -> dict[str, EncodedVideo]:
        """The usable videos of a batch."""
        if isinstance(self.library, VideoIndex):
            return {video.vid: video for video in self.library.encoded(vids)}
        loaded: list[VideoFeatures] = []
        for vid in vids:
            try:
                loaded.append(self.library.load(vid))
            except FeatureError as error:
                self.listener.skipped(error)
                continue
            for remark in loaded[-1].remarks:
                self.listener.remark(remark)
        encoded = self.predictor.encode_features(loaded, self.options.batch_size)
        return {video.vid: video for video in self._good(encoded)}

    def _encode_queries(self, lot: Sequence[tuple[str, int, Query]]) -> list[EncodedQuery | None]:
        """The queries of a lot; None for one that cannot be asked.

        Queries of all videos are encoded once, in groups that do not depend on where a run began.
        """
        if not self.plan.shared:
            return self._encode_group([query for _, _, query in lot])
        size = LOT * self.options.batch_size
        for _, row, _ in lot:
            if row not in self._shared:
                first = row - row % size
                group = self._encode_group(self.plan.shared[first : first + size])
                self._shared.update(enumerate(group, first))
        return [self._shared[row] for _, row, _ in lot]

    def _encode_group(self, queries: Sequence[Query]) -> list[EncodedQuery | None]:
        prepared: dict[int, Query] = {}
        for row, query in enumerate(queries):
            try:
                prepared[row] = self._prepare(query)
            except (QueryError, FeatureError) as error:
                self.listener.skipped(error)
        encoded = self.predictor.encode_prepared(list(prepared.values()), self.options.batch_size)
        found: list[EncodedQuery | None] = [None] * len(queries)
        for row, result in zip(prepared, encoded, strict=True):
            for good in self._good([result]):
                found[row] = good
                self.listener.encoded(good)
        return found

    def _prepare(self, query: Query) -> Query:
        """A query with what the encoder takes. Raises QueryError, FeatureError."""
        if self.predictor.rules.text is None:
            return self.predictor.rules.query(query.sentence, query.qid)
        assert query.qid is not None  # the plan has seen to it
        return self.predictor.rules.query(self.library.load_text(query.qid), query.qid, query.sentence)

    def _ground(self, pairs: Sequence[Pair]) -> list[Answer]:
        answers = self.predictor.ground_each(pairs, self.options.top_k, self.options.nms, self.options.batch_size)
        return [answer for answer in self._good(answers) if answer.key not in self.done]

    def _good(self, results: Sequence[Result | ImgDeployError]) -> Iterator[Result]:
        """The results without those that are errors, which are reported."""
        for result in results:
            if isinstance(result, ImgDeployError):
                self.listener.skipped(result)
            else:
                yield result
