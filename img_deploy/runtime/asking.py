"""One run of queries over a folder: from paths and options to answers, a batch of videos at a time.

Each video is read and encoded once, however many queries it gets, and its pairs are grounded as soon as its batch is
encoded; a folder of any size is never held in memory. What cannot be read or answered is reported and left out.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from img_deploy.durations import read_durations
from img_deploy.errors import FeatureError, InputError, QueryError
from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.features.ids import by_video
from img_deploy.features.paths import is_remote, plain
from img_deploy.files import sha256
from img_deploy.runtime.batching import alike
from img_deploy.runtime.bundle import MANIFEST, Bundle
from img_deploy.runtime.encoded import Query
from img_deploy.runtime.index import VideoIndex, is_index
from img_deploy.runtime.inputs import InputRules, input_rules
from img_deploy.runtime.lots import LOT, Answered, Asked, Batch, Listener, Lot, LotAnswerer, Request
from img_deploy.runtime.queries import Plan, plan_queries
from img_deploy.runtime.results import Answer, RowKey
from img_deploy.runtime.workers import Workers, open_workers
from img_deploy.text.glove import Progress, check_glove
from img_deploy.text.tokens import tokenize


@dataclass(frozen=True, eq=False)
class Session(Asked):
    """An opened request, and who answers it."""

    workers: Workers

    def answers(self, done: Set[RowKey] = frozenset(), listener: Listener | None = None) -> Iterator[list[Answer]]:
        """Answers in the plan's order, some at a time, without those in ``done``.

        A run that goes on after an interruption computes the very same batches, so its rows are those of a run that
        was not interrupted.

        Raises:
            BackendError: the backend failed. What was yielded before is good.
        """
        return _Run(self, done, listener or Listener()).answers()

    def notes(self) -> list[str]:
        """What a user should know before the answers, a line each."""
        videos = self.plan.videos
        notes = [str(self.workers), *self.library.notes, *self.plan.notes]
        told = self.request.durations
        if told is not None and (warning := unused(told, self.durations, self.library.videos())) is not None:
            notes.append(warning)
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
            "bundle": sha256(self.workers.bundle.folder / MANIFEST),
            "backend": self.workers.backend,
            "features": features if is_remote(features := plain(request.features)) else os.path.realpath(features),
            "store": self.library.facts.store if isinstance(self.library, VideoIndex) else None,
            "queries": _digest([[query.qid, query.sentence] for query in self.plan.all_queries()]),
            "top-k": request.options.top_k,
            "nms": request.options.nms,
            "durations": _digest(sorted(self.durations.items())) if self.durations else None,
            "clip-seconds": request.clip_seconds,
            "glove": None if request.glove is None else os.path.realpath(request.glove),
        }


def unused(path: str | os.PathLike[str], durations: Mapping[str, float], videos: Sequence[str]) -> str | None:
    """A warning where no id of a duration file is that of one of the videos; None otherwise."""
    if not videos or any(by_video(durations, vid) for vid in videos):
        return None
    return (
        f"warning: {path}: none of its {len(durations)} ids (e.g. {next(iter(durations))}) is that of a video "
        f"(e.g. {videos[0]}); use the ids of the feature files"
    )


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
        if rules.text is not None and request.text_features is None:
            raise InputError(
                f"{request.features}: an index holds no {rules.text} features; give --text-features FOLDER"
            )
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
    workers = open_workers(bundle, rules, request.backend, request.threads, request.engine, request.workers)
    return Session(request, library, plan, durations, workers)


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
    """The order of a session's answers, and what is told of them."""

    def __init__(self, session: Session, done: Set[RowKey], listener: Listener) -> None:
        self.session, self.done, self.listener = session, done, listener
        self.plan, self.batch_size = session.plan, session.request.options.batch_size
        self._closed: set[str] = set()  # videos of which nothing more comes
        self._heard: set[object] = set()  # of whom everything is told

    def answers(self) -> Iterator[list[Answer]]:
        """Answers as their batches are ready, put back into the plan's order."""
        session = self.session
        asked = Asked(session.request, session.library, session.plan, session.durations)
        waiting = deque(self.plan.videos)
        ready: dict[str, list[Answer]] = {}
        for lot, answered in session.workers.map(partial(LotAnswerer, asked), self._lots()):
            self._tell(answered)
            for answer in answered.answers:
                if answer.key not in self.done:
                    ready.setdefault(answer.vid, []).append(answer)
            self._closed.update(lot.batch.vids if lot.last else ())
            given: list[Answer] = []
            while waiting:
                given += ready.pop(waiting[0], [])
                if waiting[0] not in self._closed:
                    break
                self._closed.discard(waiting.popleft())
            if given:
                yield given
            self.listener.settled(self._left(lot))
        if rest := [answer for vid in waiting for answer in ready.pop(vid, [])]:
            yield rest

    def _lots(self) -> Iterator[Lot]:
        """The lots in which something is not done yet."""
        for vids in alike(self.plan.videos, self.session.library, self.batch_size, self._refuse):
            batch = Batch(tuple(vids))
            pairs = ((vid, row) for vid in batch.vids for row in range(len(self.plan.queries(vid))))
            before: Lot | None = None
            while some := tuple(islice(pairs, LOT * self.batch_size)):
                lot = Lot(batch, some, last=False)
                if self._left(lot):
                    if before is not None:
                        yield before
                    before = lot
            if before is not None:
                yield replace(before, last=True)
            else:
                self._closed.update(batch.vids)

    def _left(self, lot: Lot) -> int:
        """Its pairs that are not done."""
        return sum(self._open(vid, self.plan.queries(vid)[row]) for vid, row in lot.pairs)

    def _refuse(self, vid: str, error: FeatureError) -> None:
        """Leave a video out."""
        self.listener.skipped(error)
        self.listener.settled(sum(self._open(vid, query) for query in self.plan.queries(vid)))
        self._closed.add(vid)

    def _open(self, vid: str, query: Query) -> bool:
        return (vid, query.qid, query.sentence) not in self.done

    def _tell(self, answered: Answered) -> None:
        for owner, event, argument in answered.told:
            if owner not in self._heard:
                getattr(self.listener, event)(argument)
        self._heard.update(owner for owner, _, _ in answered.told if owner is not None)
