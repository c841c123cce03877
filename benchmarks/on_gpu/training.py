"""A step of training on the card: this project's beside one computed the published way."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from img_deploy.benchmarks.on_gpu.clock import Clock
from img_deploy.benchmarks.on_gpu.network import FULL, TINY, draw_feeds, on_device
from img_deploy.benchmarks.published import as_published
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork, NetworkOutput
from img_deploy.model.stacked import StackedNetwork
from img_deploy.model.stream import TextInput
from img_deploy.training.losses import Targets, total_loss
from img_deploy.training.schedule import build_optimizer

LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
"""Largest relative difference of the loss, and of the norm of a parameter's gradient, with which both ways count as the
same training."""
SMALL = 1e-4
"""Share of the whole gradient that a parameter's counts at least: some are nothing but rounding."""
SEED = 1
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Parameters of the GRUs, which both ways hold in other tensors."""

Way = Callable[[IMGNetwork], Callable[..., NetworkOutput]]
"""What computes a network's output in training; it may change the network."""
WAYS: dict[str, Way] = {"ours": StackedNetwork, "published": lambda network: as_published(network)}


def time_training(batch: int, clips: int, clock: Clock) -> dict[str, Any]:
    """Both ways on the same batch and weights, fp32: forward with all heads and losses, backward, clipping and AdamW.

    Returns:
        ``ours``, ``published``: milliseconds of a step; without dropout: ``losses``, ``gradient_norms`` of all
        parameters, ``gradient_difference``, the largest of a parameter's; ``passed``: losses and gradients agree.
    """
    config = FULL if clock.on_cuda else TINY
    steps = {name: make_step(way, config, batch, clips, clock.device) for name, way in WAYS.items()}
    losses = {name: loss for name, (loss, _, _) in steps.items()}
    (_, ours, _), (_, published, _) = steps.values()
    norms = {"ours": math.hypot(*ours.values()), "published": math.hypot(*published.values())}
    small = SMALL * norms["published"]
    difference = max(abs(ours[name] - norm) / max(norm, small) for name, norm in published.items())
    same_loss = abs(losses["ours"] - losses["published"]) <= LOSS_TOLERANCE * abs(losses["published"])
    return {name: clock.latency([run], 1.0) for name, (_, _, run) in steps.items()} | {
        "losses": losses,
        "gradient_norms": norms,
        "gradient_difference": difference,
        "passed": same_loss and difference <= GRADIENT_TOLERANCE,
    }


def make_step(
    way: Way, config: ModelConfig, batch: int, clips: int, device: str
) -> tuple[float, dict[str, float], Callable[[], None]]:
    """Without dropout the first loss and its gradient's norms, and what makes one step."""
    torch.manual_seed(SEED)
    network = IMGNetwork(config)
    compute = way(network)
    network.to(device)
    optimizer, schedule = build_optimizer(network.named_parameters(), 10**6, fused=True)
    inputs = on_device(draw_feeds(config, (clips, *[max(2, clips // 2)] * (batch - 1)), clips), "fp32", device)
    text = TextInput(inputs["word_vectors"], inputs["word_mask"], inputs["word_unknown"], inputs["char_ids"])
    targets = _targets(batch, device)

    def loss() -> Tensor:
        torch.manual_seed(SEED)
        output = compute(inputs["video"], inputs["audio"], inputs["clip_mask"], text)
        return total_loss(output, targets, 1.0).total

    def run() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    network.eval()
    for module in network.modules():
        if isinstance(module, torch.nn.GRU):
            module.train()  # cuDNN has no gradient of a layer in evaluation
    first = loss()
    first.backward()
    norms = _gradient_norms(network)
    optimizer.zero_grad()
    network.train()
    return first.item(), norms, run


def _gradient_norms(network: IMGNetwork) -> dict[str, float]:
    """By parameter; those of the GRUs by kind."""
    squares: dict[str, float] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            kind = next((kind for kind in KINDS if "multi_scale" in name and kind in name), name)
            squares[kind] = squares.get(kind, 0.0) + float(parameter.grad.double().square().sum())
    return {name: math.sqrt(square) for name, square in squares.items()}


def _targets(batch: int, device: str) -> Targets:
    one = torch.ones(batch, dtype=torch.int64, device=device)
    pair = torch.tensor([[0, 1]] * batch, device=device)
    return Targets(start=0 * one, end=one, positives=pair, negatives=pair)
