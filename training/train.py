"""A training run from a configuration to ``best.pt``."""

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger

from img_deploy.errors import ConfigError, one_line
from img_deploy.model.checkpoint import Checkpoint
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork
from img_deploy.training.answers import answers_of_network
from img_deploy.training.card import card_text, run_card
from img_deploy.training.checkpoint_callback import CheckpointCallback, Listener, StateFile
from img_deploy.training.clip_store import Progress
from img_deploy.training.config import TrainConfig
from img_deploy.training.data import GroundingData
from img_deploy.training.datasets import Datasets, prepare
from img_deploy.training.evaluate import Evaluation, evaluate_answers
from img_deploy.training.lit_module import GroundingModule
from img_deploy.training.loader import StepBatches, StepLoader
from img_deploy.training.memory import keep_freed_memory
from img_deploy.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainResult:
    """A finished run."""

    run: Path
    best: Path
    """The checkpoint to export."""
    card: dict[str, Any]
    test: Evaluation
    """The best checkpoint on the test split."""


def _ignore(_line: str) -> None:
    pass


def train(
    config: TrainConfig,
    out: str | Path,
    resume: bool = False,
    listener: Listener | None = None,
    log: Callable[[str], None] = _ignore,
    progress: Progress | None = None,
    glove_progress: Progress | None = None,
) -> TrainResult:
    """Train, choose the best checkpoint, and score it on the test split.

    On several devices every process calls this; the first one writes files and logs.

    Args:
        out: the run's folder.
        resume: go on with the run in ``out``, to the same weights as if it had not been interrupted.
        listener: called after every step.
        log: takes lines for the user.
        progress, glove_progress: see :class:`img_deploy.training.data.GroundingData`.
    Raises:
        InputError: settings, annotations or features are wrong. NonFiniteLoss: the loss is not a number.
    """
    with RunFolder(Path(out)) as run:
        first_process = is_first_process()
        if first_process:
            (run.hold if resume else run.check_new)()
        keep_freed_memory()
        torch.backends.cudnn.allow_tf32 = False  # else cuDNN computes float32 in TF32
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        datasets = prepare(config, progress, glove_progress)
        for note in datasets.notes if first_process else ():
            log(note)
        network = new_network(config, datasets.data)
        first = run.first_step(network) if resume else 0
        epoch_steps = -(-len(datasets.train) // config.batch_size)
        total = config.steps or config.epochs * epoch_steps
        module = GroundingModule(network, config, total, epoch_steps)
        provenance = {"origin": "trained", "config": config.model_dump(), "total_steps": total}
        callback = CheckpointCallback(run, config, datasets.data, datasets.validation, provenance, listener)
        trainer = _trainer(config, run, callback, first)
        if not resume and first_process:
            run.begin(config)  # not before all else is right: a mistake leaves no run behind
        _fit(trainer, module, datasets, run, callback, first)
        started = time.perf_counter()
        best = Checkpoint.load(run.best)
        test = datasets.data.queries["test"]
        answers = answers_of_network(best.network(), datasets.data, test, config.evaluation_batch)
        evaluation = evaluate_answers(answers)
        card = run_card(config, datasets, callback, best, evaluation, time.perf_counter() - started)
        if first_process and (callback.samples_per_second or not run.has_card):  # else all was done before
            run.write_card(card, card_text(card))
        return TrainResult(run.path, run.best, card, evaluation)


def is_first_process() -> bool:
    """Whether this process is the only one of its run, or the first of those on several devices or machines."""
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) in (0, None)


def new_network(config: TrainConfig, data: GroundingData) -> IMGNetwork:
    """An untrained network of the run's configuration; the same for the same seed."""
    torch.manual_seed(config.seed)
    text = data.folder.wanted.text
    known: dict[str, Any] = {
        "variant": data.variant,
        "video_dim": data.task.video.width,
        "audio_dim": data.task.audio.width,
        "text_dim": text.width if text is not None else 300,
        "chars": data.vocabulary.char_table_size if data.variant == "glove" and data.vocabulary else 0,
        "max_clips": data.folder.wanted.max_clips,
    }
    settings = config.model_dump(include={field.name for field in fields(ModelConfig)} - known.keys())
    network = IMGNetwork(ModelConfig(**known, **settings))
    network.draw_slot_noise(config.noise_seed)
    return network


def _trainer(config: TrainConfig, run: RunFolder, callback: CheckpointCallback, first: int) -> L.Trainer:
    """Lightning's. Raises ConfigError where it refuses the accelerator, the devices or the strategy."""
    # Lightning's remarks are about settings that are made here, not by the user.
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    try:
        return L.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=config.strategy,
            precision=config.precision,  # type: ignore[arg-type]
            max_epochs=1,  # Lightning's epoch is the whole run: the loader counts the real ones
            gradient_clip_val=config.clip_norm,
            logger=TensorBoardLogger(run.path, name=run.logs.name, version="", purge_step=first or None),
            callbacks=[callback],
            plugins=[StateFile()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            deterministic="warn" if config.accelerator != "cpu" and torch.cuda.is_available() else None,
        )
    except (ValueError, ImportError, MisconfigurationException) as error:
        raise ConfigError(
            f"accelerator {config.accelerator}, devices {config.devices}, strategy {config.strategy}: "
            f"{one_line(error, 200)}"
        ) from None


def _fit(
    trainer: L.Trainer,
    module: GroundingModule,
    datasets: Datasets,
    run: RunFolder,
    callback: CheckpointCallback,
    first: int,
) -> None:
    config, total = module.config, module.total_steps
    batches = StepBatches(
        datasets.data, datasets.train, config.batch_size, config.seed, trainer.global_rank, trainer.world_size
    )
    loader = StepLoader(batches, first, total, config.workers, pin=torch.cuda.is_available())
    if first < total:
        module.network.train()
        try:
            trainer.fit(module, loader, ckpt_path=run.state if first else None, weights_only=True)
        except SystemExit:
            if trainer.interrupted:  # Lightning makes a failure of Ctrl-C
                raise KeyboardInterrupt from None
            raise
    else:
        callback.load_state_dict(_kept_state(run, callback))


def _kept_state(run: RunFolder, callback: CheckpointCallback) -> dict[str, Any]:
    state = torch.load(run.state, map_location="cpu", weights_only=True)
    return state["callbacks"][callback.state_key]
