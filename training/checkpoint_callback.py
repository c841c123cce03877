"""The callback of a training run: logs, evaluations, the best and the last checkpoints, states to resume from."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.loggers import TensorBoardLogger

from img_deploy import __version__
from img_deploy.files import replacing_file
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.training.answers import Answers, answers_of_network
from img_deploy.training.config import TrainConfig
from img_deploy.training.data import Batch, GroundingData, Queries
from img_deploy.training.evaluate import quick_scores
from img_deploy.training.lit_module import GroundingModule
from img_deploy.training.run_folder import RunFolder

CHOSEN_BY = "fused/R1@0.7"
"""What the best checkpoint is best by."""


@dataclass
class RunProgress:
    """Where a run stands after a step."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    samples: int
    """Queries seen by this process."""
    seconds: float
    """Of this process, evaluations left out."""
    scores: dict[str, float] | None
    """Where the step was evaluated."""


Listener = Callable[[RunProgress], None]


class CheckpointCallback(L.Callback):
    """Runs after every step, on every device; files are written by the first.

    Evaluation is done by each device alike: it is short, and needs no messages between them.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        data: GroundingData,
        validation: Queries,
        provenance: dict[str, Any],
        listener: Listener | None = None,
    ) -> None:
        self.run, self.config, self.data, self.validation = run, config, data, validation
        self.provenance, self.listener = provenance, listener
        self.best: float = -1.0
        self.history: list[dict[str, Any]] = []
        self._samples, self._seconds, self._since = 0, 0.0, 0.0

    @property
    def state_key(self) -> str:
        return "Keeper"  # what the states of all versions call it

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.history = state_dict["best"], state_dict["history"]

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        assert isinstance(pl_module, GroundingModule)
        self._seconds += time.perf_counter() - self._since
        self._samples += len(batch) * trainer.world_size
        step = trainer.global_step
        self._log(pl_module, step)
        scores = self._evaluate(trainer, pl_module, step) if is_evaluated(step, pl_module, self.config) else None
        if scores or step % self.config.save_every == 0 or step == pl_module.total_steps:
            trainer.save_checkpoint(self.run.state)
        if self.listener is not None and trainer.is_global_zero:
            assert pl_module.last_terms is not None
            loss = pl_module.last_terms.total.item()
            place = RunProgress(
                step,
                pl_module.total_steps,
                (step - 1) // pl_module.epoch_steps,
                loss,
                self._samples,
                self._seconds,
                scores,
            )
            self.listener(place)

    @property
    def samples_per_second(self) -> float:
        return self._samples / self._seconds if self._seconds else 0.0

    def _log(self, module: GroundingModule, step: int) -> None:
        if step % self.config.log_every or not isinstance(module.logger, TensorBoardLogger):
            return
        assert module.last_terms is not None
        rates = {"learning_rate": module.trainer.optimizers[0].param_groups[0]["lr"]}
        terms = {f"loss/{name}": value.item() for name, value in module.last_terms.scalars().items()}
        share = {"loss/audio_valid": module.last_terms.audio_valid.float().mean().item()}
        module.logger.log_metrics({**terms, **share, **rates}, step)
        # Labels beside what is predicted: is the importance learned, and what from?
        writer = module.logger.experiment
        writer.add_histogram("importance/label", module.last_terms.pseudo_label, step)
        writer.add_histogram("importance/predicted", module.last_importance, step)

    def _evaluate(self, trainer: L.Trainer, module: GroundingModule, step: int) -> dict[str, float]:
        answers = answers_of_network(
            module.network, self.data, self.validation, self.config.evaluation_batch, module.device
        )
        scores = quick_scores(answers)
        self.history.append({"step": step, **scores})
        better = scores[CHOSEN_BY] > self.best
        self.best = max(self.best, scores[CHOSEN_BY])
        if trainer.is_global_zero:
            self._log_scores(module, answers, scores, step)
            checkpoint = self._checkpoint(module, step, scores)
            checkpoint.save(self.run.last(step))
            self.run.forget_old(self.config.keep_last, step)
            if better:
                checkpoint.save(self.run.best)
        return scores

    @staticmethod
    def _log_scores(module: GroundingModule, answers: Answers, scores: dict[str, float], step: int) -> None:
        if isinstance(module.logger, TensorBoardLogger):
            module.logger.log_metrics({f"evaluation/{name}": value for name, value in scores.items()}, step)
            with_audio = answers.importance[answers.has_audio]
            if len(with_audio):
                module.logger.experiment.add_histogram("evaluation/importance", with_audio, step)

    def _checkpoint(self, module: GroundingModule, step: int, scores: dict[str, float]) -> Checkpoint:
        text = self.data.folder.wanted.text
        kinds = {"video": self.data.task.video, "audio": self.data.task.audio}
        kinds |= {"text": text} if text is not None else {}
        return Checkpoint(
            config=module.network.config,
            weights=module.network.state_dict(),
            features={name: {"name": kind.name, "width": kind.width} for name, kind in kinds.items()},
            noise_seed=self.config.noise_seed,
            vocabulary=self.data.vocabulary if self.data.variant == "glove" else None,
            provenance={**self.provenance, "program": f"img-deploy {__version__}", "step": step},
            metrics={"protocol": protocol(self.config), "chosen_by": CHOSEN_BY, **scores},
        )


class StateFile(TorchCheckpointIO):
    """States appear whole: a killed save leaves the one before. Lightning's own takes a detour over ``/tmp``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        content = io.BytesIO()
        torch.save(checkpoint, content)
        with replacing_file(path) as stream:
            stream.write(content.getbuffer())


def is_evaluated(step: int, module: GroundingModule, config: TrainConfig) -> bool:
    """Whether the network is evaluated after ``step`` steps: so often per epoch, and at the end."""
    length, times = module.epoch_steps, config.evaluations
    inside = (step - 1) % length + 1
    return step == module.total_steps or inside in {max(1, round(length * k / times)) for k in range(1, times + 1)}


def protocol(config: TrainConfig) -> str:
    """How the checkpoint was chosen, in words."""
    if config.select_on == "test":
        return "selected on the test set (the published protocol: its test scores are optimistic)"
    if config.select_on == "val_2":
        return "selected on val_2, a second annotation of the test videos"
    return f"selected on {config.validation_share:.0%} of the training videos, held out"
