"""Backends made ready to be timed: a predictor each, whose graph runs are clocked apart from what surrounds them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from img_deploy.benchmarks.timing import Stopwatch
from img_deploy.benchmarks.workload import InputSet
from img_deploy.errors import BackendError
from img_deploy.runtime.backends.choose import Choice, choose, survey
from img_deploy.runtime.backends.protocol import Backend, Feeds, Outputs
from img_deploy.runtime.bundle import Bundle
from img_deploy.runtime.inputs import InputRules, input_rules
from img_deploy.runtime.predictor import Predictor
from img_deploy.runtime.results import Answer

EAGER = "torch"
"""The backend that every other is compared with, on the same device."""

STAGES = ("encode_video", "encode_query", "ground", "decode")
"""Parts of an answer, in order. ``ground`` is the grounder's graph alone; ``decode`` all that surrounds it: stacking
the batch, the spans and the answers."""

ASKED = ("encode_query", "ground", "decode")
"""The parts that a further query on videos encoded before takes."""


class ClockedBackend:
    """A backend that adds up the milliseconds of its graph runs. One thread at a time."""

    has_pair = False

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.device, self.precision = backend.name, backend.device, backend.precision
        self.spent = 0.0

    def run(self, graph: str, feeds: Feeds) -> Outputs:
        watch = Stopwatch()
        out = self._backend.run(graph, feeds)
        self.spent += watch.lap()
        return out

    def notes(self) -> dict[str, str]:
        return self._backend.notes()

    def close(self) -> None:
        self._backend.close()


class Contender:
    """One backend on a bundle."""

    def __init__(self, bundle: Bundle, rules: InputRules, choice: Choice, label: str | None = None) -> None:
        self._clock = ClockedBackend(choice.backend)
        self.predictor = Predictor(bundle, rules, replace(choice, backend=self._clock))
        self.label = label or f"{choice.backend.name}:{choice.backend.device}"
        """What tables call it: backend and device."""

    @property
    def device(self) -> str:
        return self._clock.device

    @property
    def precision(self) -> str:
        return self._clock.precision

    @property
    def baseline(self) -> str:
        """Label of the contender that it is compared with."""
        return f"{EAGER}:{self.device}"

    def answers(self, inputs: InputSet) -> list[Answer]:
        """Everything from features and queries to answers, in one batch."""
        return self._answer(inputs)[0]

    def time(self, inputs: InputSet) -> dict[str, float]:
        """Milliseconds of each of :data:`STAGES` for one batch."""
        return self._answer(inputs)[1]

    def _answer(self, inputs: InputSet) -> tuple[list[Answer], dict[str, float]]:
        predictor, batch = self.predictor, len(inputs.videos)
        times = {}
        watch = Stopwatch()
        videos = predictor.encode_video(inputs.videos, inputs.audios, batch_size=batch)
        times["encode_video"] = watch.lap()
        queries = predictor.encode_query(_texts(inputs), batch_size=batch)
        times["encode_query"] = watch.lap()
        self._clock.spent = 0.0
        answers = predictor.ground(videos, queries, batch_size=batch)
        whole = watch.lap()
        times["ground"] = self._clock.spent
        times["decode"] = whole - self._clock.spent
        return answers, times

    def notes(self) -> list[str]:
        """What did not go as the backend planned, a line each."""
        return [f"{self.label}: {what} ({why})" for what, why in self._clock.notes().items()]

    def close(self) -> None:
        self.predictor.close()


def _texts(inputs: InputSet) -> list[Any]:
    return list(inputs.queries)


@dataclass(frozen=True)
class Lineup:
    """The contenders of a run, baselines first, and why other backends are not among them."""

    contenders: tuple[Contender, ...]
    out: dict[str, str]

    def baseline_of(self, contender: Contender) -> Contender | None:
        """The eager network on the same device; None where it does not run here."""
        return next((one for one in self.contenders if one.label == contender.baseline), None)

    def close(self) -> None:
        for contender in self.contenders:
            contender.close()


def open_contenders(bundle: Bundle, names: Iterable[str] = (), threads: int | None = None) -> Lineup:
    """Open the backends asked for, or all that work here; eager PyTorch is always among them where it works.

    Raises:
        InputError: no such backend.
        BackendError: one that was asked for does not work here, or none does.
        BundleError: a file of the bundle is missing, damaged or tampered with.
    """
    rules = input_rules(bundle)
    opened: dict[str, Contender] = {}
    out: dict[str, str] = {}

    def take(name: str) -> None:
        choice = choose(bundle, name, threads)
        contender = Contender(bundle, rules, choice)
        if opened.setdefault(contender.label, contender) is not contender:
            contender.close()

    for name in names:
        take(name)
    if not opened:
        for entry, why in survey(bundle):
            _try(take, entry.label, why, out)
    for device in {contender.device for contender in opened.values()}:
        label = f"{EAGER}:{device}"
        if label not in opened and label not in out:
            _try(take, label, None, out)
    if not opened:
        raise BackendError("; ".join(["no backend works on this machine", *(f"{k}: {v}" for k, v in out.items())]))
    ordered = sorted(opened.values(), key=lambda one: one.label != one.baseline)
    return Lineup(tuple(ordered), out)


def _try(take: Any, label: str, why: str | None, out: dict[str, str]) -> None:
    """Open a backend that nobody asked for by name: where it does not work, that is a note."""
    try:
        if why is None:
            take(label)
    except BackendError as error:
        why = str(error)
    if why is not None:
        out[label] = why
