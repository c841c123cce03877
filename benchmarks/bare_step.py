"""One training step at a time, without Lightning around it: this project's, and one computed the published way.

Both do the same work on the same batches: load, forward with all heads and losses, backward, clip, update.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.benchmarks.published import as_published
from img_deploy.benchmarks.timing import Stopwatch
from img_deploy.kernels import functional, linear_gradient
from img_deploy.model.network import IMGNetwork
from img_deploy.training.config import TrainConfig
from img_deploy.training.data import Batch
from img_deploy.training.lit_module import loss_config, seed_step
from img_deploy.training.loader import StepBatches
from img_deploy.training.losses import total_loss
from img_deploy.training.schedule import build_optimizer, warm_up


class BareStep:
    """Makes the steps of a run one by one and tells what each stage took.

    Args:
        network: trained in place.
        batches: of the run; step k takes batch k.
        fused: update all parameters in one call, as training on a CPU does.
        around: context that the arithmetic of a step runs in.
    """

    def __init__(
        self,
        network: IMGNetwork,
        config: TrainConfig,
        batches: StepBatches,
        fused: bool = True,
        around: Callable[[], Any] = nullcontext,
    ) -> None:
        self.network, self.config, self.batches, self.around = network.train(), config, batches, around
        assert config.steps is not None
        self.optimizer, self.schedule = build_optimizer(
            network.named_parameters(), config.steps, config.learning_rate, config.weight_decay, fused
        )
        self.losses = loss_config(config)
        self.step = 0

    def __call__(self, number: int) -> Mapping[str, float]:
        """Milliseconds of one step by stage; ``number`` is the batch."""
        watch = Stopwatch()
        batch = self.batches[number]
        times = {"load": watch.lap()}
        with self.around():
            loss = self.loss(batch)
            times["forward"] = watch.lap()
            loss.backward()
            times["backward"] = watch.lap()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
            times["update"] = watch.lap()
        self.step += 1
        return times

    def loss(self, batch: Batch) -> Tensor:
        seed_step(self.config.seed, self.step)
        epoch = self.step // self.batches.epoch_steps
        weight = warm_up(epoch, self.config.fusion_warm_up)
        output = self.network(batch.video, batch.audio, batch.clip_mask, batch.text, weight)
        assert batch.targets is not None
        return total_loss(output, batch.targets, warm_up(epoch, self.config.distill_warm_up), self.losses).total


def published_step(network: IMGNetwork, config: TrainConfig, batches: StepBatches) -> BareStep:
    """The step with packed ``nn.GRU``, PyTorch's own layers and random numbers, and AdamW tensor by tensor.

    ``network`` is changed: its step 13 becomes :class:`~img_deploy.benchmarks.published.PackedMultiScale`.
    """
    as_published(network)
    return BareStep(network, config, batches, fused=False, around=plain_pieces)


@contextmanager
def plain_pieces() -> Iterator[None]:
    """PyTorch's own linear layers, depthwise convolution and random numbers instead of this project's for the CPU."""
    kept = functional.DepthwiseFunction, functional._draw_int16, linear_gradient._onednn
    functional.DepthwiseFunction, functional._draw_int16 = _PlainDepthwise, _plain_draw  # type: ignore[assignment, misc]
    linear_gradient._onednn = _never  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.DepthwiseFunction, functional._draw_int16, linear_gradient._onednn = kept  # type: ignore[misc]


class _PlainDepthwise:
    @staticmethod
    def apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        width, groups = weight.shape[-1], weight.shape[0]
        return F.conv1d(x.transpose(1, 2), weight[:, None], bias, padding=width // 2, groups=groups).transpose(1, 2)


def _never() -> bool:
    return False


def _plain_draw(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.int16).random_(-(2**15), 2**15)
