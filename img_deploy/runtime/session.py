"""One run of questions over a folder, from paths and options to answers."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from img_deploy.durations import read_durations
from img_deploy.errors import InputError, QueryError
from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.features.ids import by_video
from img_deploy.files import sha256
from img_deploy.runtime.asking import AskOptions, Listener, ask
from img_deploy.runtime.backends.choose import AUTO, choose
from img_deploy.runtime.bundle import MANIFEST, Bundle
from img_deploy.runtime.engine import Engine
from img_deploy.runtime.inputs import InputRules, input_rules
from img_deploy.runtime.questions import Plan, check_ids, plan_questions
from img_deploy.runtime.results import Answer, RowKey
from img_deploy.text.glove import Progress, check_glove
from img_deploy.text.tokens import tokenize


@dataclass(frozen=True)
class Request:
    """What is asked of which folder; see ``img-deploy infer --help`` for each."""

    features: Path
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


@dataclass(frozen=True, eq=False)
class Session:
    """An opened request. ``durations`` are seconds by video id."""

    request: Request
    engine: Engine
    folder: FeatureFolder
    plan: Plan
    durations: Mapping[str, float]

    def answers(self, done: Set[RowKey] = frozenset(), listener: Listener | None = None) -> Iterator[list[Answer]]:
        """Answers in the plan's order, without those in ``done``. Raises BackendError."""
        return ask(self.engine, self.folder, self.plan, self.seconds, self.request.options, done, listener)

    def seconds(self, vid: str, clips: int) -> float | None:
        """Duration of a video of ``clips`` clips (before down-sampling); None where nothing tells it."""
        told = by_video(self.durations, vid) or by_video(self.plan.seconds, vid)
        if told is None and self.request.clip_seconds is not None:
            return self.request.clip_seconds * clips
        return told

    def notes(self) -> list[str]:
        """What a user should be told before the answers, a line each."""
        notes = [str(self.engine.choice), *self.folder.notes, *self.plan.notes]
        unknown = [vid for vid in self.plan.videos if self.seconds(vid, 1) is None]
        if len(unknown) == len(self.plan.videos):
            notes.append(
                "no durations: moments are given in clips and as fractions of the video; "
                "--durations FILE or --clip-seconds X gives seconds"
            )
        elif unknown:
            notes.append(
                f"no duration of {len(unknown)} of {len(self.plan.videos)} videos ({', '.join(unknown[:3])}"
                f"{', ...' if len(unknown) > 3 else ''}): their moments are given in clips and fractions alone"
            )
        return notes

    def settings(self) -> dict[str, Any]:
        """What the answers depend on, as JSON types: a run is resumed only with the same."""
        request = self.request
        return {
            "bundle": sha256(self.engine.bundle.folder / MANIFEST),
            "backend": self.engine.backend,
            "features": os.path.realpath(request.features),
            "queries": _digest([[q.qid, q.query] for q in self._questions()]),
            "top-k": request.options.top_k,
            "nms": request.options.nms,
            "durations": _digest(sorted(self.durations.items())) if self.durations else None,
            "clip-seconds": request.clip_seconds,
            "glove": None if request.glove is None else os.path.realpath(request.glove),
        }

    def _questions(self) -> Iterator[Any]:
        yield from self.plan.shared
        for vid in self.plan.own:
            yield from self.plan.own[vid]


def open_session(request: Request, glove_progress: Progress | None = None) -> Session:
    """Open bundle, folder, queries and durations. What is wrong with any of them is found before work begins.

    Args:
        glove_progress: called with bytes read and bytes of the file while a GloVe file is read.

    Raises:
        InputError: an option, a file or a folder is wrong, or does not fit the bundle.
        BackendError: the backend asked for does not work here.
    """
    _check_options(request)
    durations = {} if request.durations is None else read_durations(request.durations)
    bundle = Bundle.open(request.bundle)
    rules = input_rules(bundle)
    if rules.text is None and request.text_features is not None:
        raise InputError(f"{request.text_features}: this bundle takes sentences; drop --text-features")
    if rules.vocabulary is None and request.glove is not None:
        raise InputError(f"{request.glove}: this bundle takes {rules.text} features, not words; drop --glove")
    if rules.vocabulary is None:
        check_ids(request.queries, request.queries_file, rules.text)  # says more than that their features are missing
    if request.glove is not None:
        check_glove(request.glove)  # also where it turns out not to be needed
    folder = open_folder(
        request.features, rules.video, rules.audio, rules.text, rules.max_clips, text_dir=request.text_features
    )
    plan = plan_questions(folder, request.queries, request.queries_file, request.videos, by_id=rules.vocabulary is None)
    if request.glove is not None:
        rules = _widened(rules, plan, request.glove, glove_progress)
    for sentence in request.queries:
        rules.query(sentence)  # one given by hand is refused at once, not skipped
    engine = Engine(bundle, rules, choose(bundle, request.backend, request.threads))
    return Session(request, engine, folder, plan, durations)


def _check_options(request: Request) -> None:
    if request.durations is not None and request.clip_seconds is not None:
        raise InputError("--durations and --clip-seconds: got both, expected one of them")
    if request.clip_seconds is not None and not 0 < request.clip_seconds < float("inf"):
        raise InputError(f"--clip-seconds: got {request.clip_seconds}, expected more than 0 seconds")


def _widened(rules: InputRules, plan: Plan, glove: Path, progress: Progress | None) -> InputRules:
    """The rules with the words of all questions that the GloVe file knows."""
    if rules.vocabulary is None:
        return rules
    tokens = []
    for question in dict.fromkeys([*plan.shared, *(q for own in plan.own.values() for q in own)]):
        try:
            tokens.append(tokenize(question.query, rules.max_words, rules.max_chars))
        except QueryError:
            continue  # told when its turn comes
    return replace(rules, vocabulary=rules.vocabulary.widen_for(tokens, glove, progress))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
