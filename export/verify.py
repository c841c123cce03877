"""Nothing ships unverified: every artifact answers the same samples as the eager fp32 network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import FeatureError, VerificationError
from img_deploy.export.samples import Sample
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.protocol import Backend, Feeds, Outputs
from img_deploy.runtime.stages import encode_queries, encode_videos, ground_pairs, whole

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Budget:
    """What a precision may lose against the eager fp32 network before it is refused."""

    largest: float
    """Largest difference of an output at any real clip or word; in proportion where it exceeds :data:`FULL_SCALE`."""
    agreement: float
    """Share of samples whose best span must be the same."""
    iou: float
    """Mean overlap of the best spans."""


BUDGETS = {
    # Rounding of another order of sums.
    "fp32": Budget(largest=1e-4, agreement=1.0, iou=0.0),
    # 11 bits of every stored activation: 0.06 at most on random networks, 0.01 on trained ones.
    "fp16": Budget(largest=0.1, agreement=0.9, iou=0.95),
    # 8 bits: 0.53 on a trained network with logits up to 17, every span the same. Spans decide; this bounds nonsense.
    "bf16": Budget(largest=1.0, agreement=0.8, iou=0.9),
}
FULL_SCALE = 32.0
"""Outputs up to this size are held to a budget as it stands: a float has so many digits whatever its size."""
TIE = 4e-4
"""Spans whose logits the reference puts no farther apart than this count as the same: rounding may decide."""


@dataclass(frozen=True)
class Row:
    """One graph of one artifact against the eager fp32 network, each sample alone."""

    backend: str
    precision: str
    graph: str
    largest: float
    """Largest difference, of the output that comes closest to what it is allowed."""
    mean: float
    samples: int
    bytes: int
    agreement: float | None = None
    """Share of samples with the same best span; None for the encoders."""
    iou: float | None = None
    """Mean overlap of the best spans."""
    passed: bool = True
    allowed: float | None = None
    """What ``largest`` may be; None in tables of older bundles."""


@dataclass(frozen=True)
class Verification:
    """Table of rows; ``source`` says what the samples were."""

    source: str
    seed: int
    rows: tuple[Row, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "passed": self.passed}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Verification":
        """Inverse of :meth:`as_dict`."""
        return cls(values["source"], values["seed"], tuple(Row(**row) for row in values["rows"]))


@dataclass(frozen=True)
class Result:
    """What a backend makes of one sample: per graph its outputs without padding, float32, and the best span."""

    outputs: Mapping[str, Mapping[str, Array]]
    span: tuple[int, int]


class _Recorder:
    """Runs a backend and keeps what the grounders gave."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.grounded: list[tuple[str, dict[str, Array]]] = []

    def __call__(self, graph: str, feeds: Feeds) -> Outputs:
        out = self._backend.run(graph, feeds)
        if graph.endswith("grounder"):
            for row in range(len(feeds["clip_mask"])):
                self.grounded.append((graph, {name: values[row] for name, values in out.items()}))
        return out


def results(backend: Backend, samples: Sequence[Sample], batch_size: int) -> list[Result]:
    """Answer samples as the runtime does, in batches of mixed lengths, videos with and without sound together.

    ``samples`` must be in the order of :func:`in_run_order`.
    """
    run = _Recorder(backend)
    clips = [sample.clips for sample in samples]
    width = max(clip.audio.shape[1] for clip in clips if clip.audio is not None)
    videos = whole(encode_videos(run, clips, width, batch_size, ""))
    queries = whole(encode_queries(run, [sample.query for sample in samples], batch_size, ""))
    pairs = [(video, query, None) for video, query in zip(videos, queries, strict=True)]
    answers = whole(ground_pairs(run, pairs, 1, 1.0, batch_size))
    found = []
    for video, query, answer, (graph, out) in zip(videos, queries, answers, run.grounded, strict=True):
        grounded = {name: values[: answer.clips] if values.ndim else values for name, values in out.items()}
        encoded = {"visual_clips": video.visual_clips}
        if video.audio_clips is not None:
            encoded["audio_clips"] = video.audio_clips
        words = {"visual_words": query.visual_words, "audio_words": query.audio_words}
        outputs = {"video_encoder": encoded, "query_encoder": words, graph: grounded}
        numbers = {
            name: {key: np.asarray(value, np.float32) for key, value in values.items()}
            for name, values in outputs.items()
        }
        found.append(Result(numbers, answer.moments[0].span))
    return found


def in_run_order(samples: Iterable[Sample]) -> list[Sample]:
    """Videos with sound first, each kind by length: the order in which the runtime grounds them."""
    return sorted(samples, key=lambda sample: (sample.clips.audio is None, len(sample.clips.video)))


def compare(
    backend: Backend,
    samples: Sequence[Sample],
    reference: Sequence[Result],
    sizes: Mapping[str, int],
    batch_sizes: Sequence[int] = (1, 3, 64),
) -> list[Row]:
    """Rows of one backend, worst case over batch sizes.

    Args:
        backend: what is tried; its precision picks the budget.
        samples: in the order of :func:`in_run_order`.
        reference: :func:`results` of the eager fp32 network, each sample alone.
        sizes: bytes of the file of each graph.

    Raises:
        VerificationError: an output is not a number, or infinite.
    """
    budget = BUDGETS[backend.precision]
    try:
        tried = [(results(backend, samples, size), reference) for size in batch_sizes]
    except FeatureError:
        what = f"backend {backend.name}, {backend.precision}"
        raise VerificationError(f"{what}: has no finite result where the eager fp32 network has one") from None
    pairs = [pair for found, wanted in tried for pair in zip(found, wanted, strict=True)]
    rows = []
    for graph in GRAPH_NAMES:
        own = [(found, wanted) for found, wanted in pairs if graph in wanted.outputs]
        if not own:
            continue
        differences = [_differences(found.outputs[graph], wanted.outputs[graph]) for found, wanted in own]
        largest, allowed = _worst(differences, [wanted.outputs[graph] for _, wanted in own], budget)
        mean = float(np.concatenate([values for each in differences for values in each.values()]).mean())
        agreement = iou = None
        passed = largest <= allowed
        if graph.endswith("grounder"):
            agreement = float(np.mean([_same_span(found, wanted, graph) for found, wanted in own]))
            iou = float(np.mean([_iou(found.span, wanted.span) for found, wanted in own]))
            passed = passed and agreement >= budget.agreement and iou >= budget.iou
        rows.append(
            Row(
                backend=backend.name,
                precision=backend.precision,
                graph=graph,
                largest=largest,
                mean=mean,
                samples=len(own) // len(batch_sizes),
                bytes=sizes[graph],
                agreement=agreement,
                iou=iou,
                passed=bool(passed),
                allowed=allowed,
            )
        )
    return rows


def _differences(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, NDArray[np.float64]]:
    """Of every output by name, flattened."""
    return {name: np.abs(found[name].astype(float) - wanted[name]).ravel() for name in wanted}


def _worst(
    differences: Sequence[Mapping[str, NDArray[np.float64]]], wanted: Sequence[Mapping[str, Array]], budget: Budget
) -> tuple[float, float]:
    """Largest difference of the output that comes closest to its limit, and that limit.

    Each output has a limit of its own: loud saliencies must not excuse the importance.
    """
    found = []
    for name in dict.fromkeys(name for each in wanted for name in each):  # silent videos have no audio clips
        peak = max(float(np.abs(each[name]).max()) for each in wanted if name in each)
        largest = max(float(each[name].max()) for each in differences if name in each)
        found.append((largest, budget.largest * max(1.0, peak / FULL_SCALE)))
    return max(found, key=lambda pair: pair[0] / pair[1])


def _same_span(found: Result, wanted: Result, graph: str) -> bool:
    start, end = (wanted.outputs[graph][name].astype(float) for name in ("start_logits", "end_logits"))
    best, own = (start[span[0]] + end[span[1]] for span in (wanted.span, found.span))
    return bool(found.span == wanted.span or best - own <= TIE)


def _iou(first: tuple[int, int], second: tuple[int, int]) -> float:
    shared = min(first[1], second[1]) - max(first[0], second[0]) + 1
    lengths = first[1] - first[0] + second[1] - second[0] + 2
    return max(shared, 0) / (lengths - max(shared, 0))
