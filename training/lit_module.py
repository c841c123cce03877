"""The network under Lightning: one training step, its random numbers, and the optimiser."""

from functools import cached_property
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from img_deploy.errors import ImgDeployError
from img_deploy.model.network import IMGNetwork, NetworkOutput
from img_deploy.model.stacked import StackedNetwork
from img_deploy.training.config import TrainConfig
from img_deploy.training.constants import LossConfig
from img_deploy.training.data import Batch
from img_deploy.training.losses import LossTerms, total_loss
from img_deploy.training.schedule import build_optimizer, warm_up

SHOWN_NAMES = 64
"""Queries of a bad batch that an error names at most."""


class NonFiniteLoss(ImgDeployError):
    """Training stopped because the loss is NaN or infinite; the message names the batch."""


class GroundingModule(L.LightningModule):
    """IMG and its objective.

    Every random number of a step (dropout, slot noise) comes from (seed, step, rank), so a run that is resumed at
    any step goes on as if it had never stopped.

    Args:
        network: to be trained.
        config: of the run.
        total_steps: optimiser steps of the whole run.
        epoch_steps: steps per epoch, for the warm-ups.
    """

    def __init__(self, network: IMGNetwork, config: TrainConfig, total_steps: int, epoch_steps: int) -> None:
        super().__init__()
        self.network, self.config = network, config
        self.total_steps, self.epoch_steps = total_steps, epoch_steps
        self.losses = loss_config(config)
        self.last_terms: LossTerms | None = None
        self.last_importance: Tensor | None = None
        self._last: tuple[NetworkOutput, Batch, int] | None = None

    @property
    def epoch(self) -> int:
        """Counted from 0; of the step about to be made."""
        return self.global_step // self.epoch_steps

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, _loader: int) -> Batch:
        """Without waiting for the device: the loader has pinned the batch."""
        return batch.to(device, non_blocking=True)

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        step = self.global_step
        seed_step(self.config.seed, step, self.global_rank)
        weight = warm_up(self.epoch, self.config.fusion_warm_up)
        network = self.network if batch.video.is_cpu else self._stacked
        output = network(batch.video, batch.audio, batch.clip_mask, batch.text, weight)
        assert batch.targets is not None
        terms = total_loss(output, batch.targets, warm_up(self.epoch, self.config.distill_warm_up), self.losses)
        self.last_terms, self.last_importance = terms, output.importance.detach()
        self._last = output, batch, step
        return terms.total

    @cached_property
    def _stacked(self) -> StackedNetwork:
        return StackedNetwork(self.network)

    def on_after_backward(self) -> None:
        """Stop at a loss that is not a number. Looked at no earlier: the host would wait for a GPU in mid-step."""
        assert self.last_terms is not None
        assert self._last is not None
        if not torch.isfinite(self.last_terms.total):
            raise NonFiniteLoss(_describe(self.last_terms, *self._last))

    def configure_optimizers(self) -> Any:
        optimizer, schedule = build_optimizer(
            self.network.named_parameters(),
            self.total_steps,
            self.config.learning_rate,
            self.config.weight_decay,
            # 262 small parameters cost more to visit than to update. In mixed precision Lightning cannot clip then.
            fused=self.config.precision == "32-true",
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loss_config(config: TrainConfig) -> LossConfig:
    """Constants of the objective; a term that an ablation leaves out weighs 0."""
    return LossConfig(
        gamma=config.label_temperature,
        epsilon=config.label_threshold,
        temperature=config.distill_temperature,
        margin=config.margin,
        saliency_weight=config.saliency_weight,
        distill_weight=config.distill_weight if config.use_distillation else 0.0,
        importance_weight=config.importance_weight if config.use_importance else 0.0,
    )


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Set PyTorch's generators for one step."""
    low, high = np.random.SeedSequence([seed, step, rank]).generate_state(2)
    torch.manual_seed(int(high) << 32 | int(low))


def _describe(terms: LossTerms, output: NetworkOutput, batch: Batch, step: int) -> str:
    bad = [name for name, value in terms.scalars().items() if name != "total" and not torch.isfinite(value)]
    names = [f"{qid} ({vid})" for qid, vid in zip(batch.qids, batch.vids, strict=True)]
    heads = (output.fused, output.visual, output.audio)
    broken = ~torch.stack([torch.isfinite(head.saliency).all(1) for head in heads]).all(0)
    culprits = [name for name, wrong in zip(names, broken.tolist(), strict=True) if wrong]
    blamed = f"; not finite are the answers to {_some(culprits)}" if 0 < len(culprits) < len(names) else ""
    return (
        f"step {step}: got loss {terms.total.item()} ({', '.join(bad) or 'their sum'} not finite), expected a number; "
        f"the batch holds the queries {_some(names)}{blamed}; look at their features, or lower the learning rate"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
