"""Evaluation of a checkpoint or a bundle on a task, from paths to scores."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img_deploy.errors import BackendError, ConfigError
from img_deploy.hardware import why_no_gpu
from img_deploy.training.answers import Answers, answers_of_bundle, answers_of_network
from img_deploy.training.data import GroundingData
from img_deploy.training.evaluate import Evaluation, evaluate_answers
from img_deploy.training.tasks import FEATURES, Task, open_task

if TYPE_CHECKING:
    from img_deploy.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be scored on what; see ``img-deploy evaluate --help``. Exactly one of ``checkpoint``, ``bundle``."""

    task: str
    data: Path
    checkpoint: Path | None = None
    bundle: Path | None = None
    features: str | None = None
    """Default: the kind that the checkpoint or bundle was trained on."""
    split: str = "test"
    cache: Path | None = None
    batch_size: int = 64
    backend: str = "auto"
    device: str = "cpu"
    resamples: int = 1000


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores, and what they are made of."""

    evaluation: Evaluation
    answers: Answers
    data: GroundingData
    task: Task
    source: str
    """What was evaluated, in words."""
    protocol: str | None
    """How the checkpoint was chosen, where it says."""
    notes: tuple[str, ...]


def run_evaluation(request: EvaluationRequest, reading: Callable[[int, int], None] | None = None) -> EvaluationResult:
    """Answer the queries of a split and score the answers.

    Raises:
        InputError: the checkpoint, bundle, annotations or features are missing, broken or do not fit each other.
        BackendError: the bundle's backend does not work here.
    """
    if (request.checkpoint is None) == (request.bundle is None):
        raise ConfigError("evaluate: give either a checkpoint (--ckpt) or a bundle (--bundle)")
    if request.split not in ("test", "val_2") or (request.split == "val_2" and request.task != "activitynet"):
        raise ConfigError(f"split is {request.split!r}, expected test (or val_2, for activitynet)")
    if not re.fullmatch(r"cpu|cuda(:\d)?", request.device):
        raise ConfigError(f"device is {request.device!r}, expected cpu or cuda")
    if request.device != "cpu" and (why := why_no_gpu()):
        raise BackendError(f"device {request.device}: {why}; use cpu")
    return _of_checkpoint(request, reading) if request.checkpoint is not None else _of_bundle(request, reading)


def _of_checkpoint(request: EvaluationRequest, reading: Callable[[int, int], None] | None) -> EvaluationResult:
    from img_deploy.model.checkpoint import Checkpoint

    assert request.checkpoint is not None
    checkpoint = Checkpoint.load(request.checkpoint)
    config = checkpoint.config
    data = _data(request, checkpoint.features, checkpoint.vocabulary, config.max_clips, reading)
    queries = data.queries[request.split]
    network = checkpoint.network().to(request.device)
    answers = answers_of_network(network, data, queries, request.batch_size, request.device)
    return _result(request, data, answers, f"checkpoint {request.checkpoint}", checkpoint.metrics.get("protocol"))


def _of_bundle(request: EvaluationRequest, reading: Callable[[int, int], None] | None) -> EvaluationResult:
    from img_deploy.runtime.predictor import load_bundle

    assert request.bundle is not None
    predictor = load_bundle(request.bundle, request.backend)
    manifest = predictor.bundle.manifest
    data = _data(request, manifest.features, predictor.vocabulary, predictor.rules.max_clips, reading)
    answers = answers_of_bundle(predictor, data, data.queries[request.split], request.batch_size)
    source = f"bundle {request.bundle} on {predictor.choice}"
    return _result(request, data, answers, source, manifest.metrics.get("protocol"))


def _result(
    request: EvaluationRequest, data: GroundingData, answers: Answers, source: str, protocol: Any
) -> EvaluationResult:
    return EvaluationResult(
        evaluate_answers(answers, request.resamples),
        answers,
        data,
        data.task,
        source,
        protocol,
        data.queries[request.split].left_out,
    )


def _data(
    request: EvaluationRequest,
    kinds: Mapping[str, Mapping[str, Any]],
    vocabulary: "Vocabulary | None",
    max_clips: int,
    reading: Callable[[int, int], None] | None,
) -> GroundingData:
    trained_on = kinds["video"]["name"]
    features = request.features or trained_on
    if features not in FEATURES:
        raise ConfigError(
            f"features of the {'checkpoint' if request.checkpoint else 'bundle'} are {features!r}, expected one of "
            f"{', '.join(FEATURES)}; say with --features in which files they lie"
        )
    task = open_task(request.task, features, request.data, kinds["video"]["width"], kinds["audio"]["width"])
    variant = "tokens" if vocabulary is None else "glove"
    if vocabulary is None and (task.text is None or task.text.name != kinds["text"]["name"]):
        found = "none" if task.text is None else task.text.name
        raise ConfigError(
            f"the network reads token features of {kinds['text']['name']}, got {found} beside {features} of "
            f"{task.name}; give other --features, or a network that reads words"
        )
    if trained_on in FEATURES and features != trained_on:
        raise ConfigError(f"features are {features!r}, but the network was trained on {trained_on}; drop --features")
    cache = request.cache or Path(request.data) / ".img-deploy"
    return GroundingData(
        task,
        variant,  # type: ignore[arg-type]
        (request.split,),  # type: ignore[arg-type]
        cache,
        vocabulary=vocabulary,
        max_clips=max_clips,
        progress=reading,
    )
