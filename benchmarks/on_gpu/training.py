"""A step of training on the card: this project's beside one computed the published way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from img_deploy.benchmarks.on_gpu.clock import Clock
from img_deploy.benchmarks.on_gpu.network import FULL, TINY, draw_feeds, on_device
from img_deploy.benchmarks.published import with_packed_grus
from img_deploy.model.network import IMGNetwork
from img_deploy.model.stream import TextInput
from img_deploy.training.losses import Targets, total_loss
from img_deploy.training.schedule import build_optimizer

TOLERANCE = 1e-5
"""Largest relative difference of the loss with which both ways count as the same network."""
SEED = 1


def time_training(batch: int, clips: int, clock: Clock) -> dict[str, Any]:
    """Both ways on the same batch and weights, fp32: forward with all heads and losses, backward, clipping and AdamW.

    Returns:
        ``ours``, ``published``: milliseconds of a step; ``losses`` without dropout; ``passed``: those agree.
    """
    steps = {"ours": _step(lambda network: network, batch, clips, clock.device)}
    steps["published"] = _step(with_packed_grus, batch, clips, clock.device)
    losses = {name: loss for name, (loss, _) in steps.items()}
    passed = abs(losses["ours"] - losses["published"]) <= TOLERANCE * abs(losses["published"])
    return {name: clock.latency([run], 1.0) for name, (_, run) in steps.items()} | {"losses": losses, "passed": passed}


def _step(
    change: Callable[[IMGNetwork], IMGNetwork], batch: int, clips: int, device: str
) -> tuple[float, Callable[[], None]]:
    """The first loss without dropout, and what makes one step."""
    config = FULL if device == "cuda" else TINY
    torch.manual_seed(SEED)
    network = change(IMGNetwork(config)).to(device)
    optimizer, schedule = build_optimizer(network.named_parameters(), 10**6, fused=True)
    inputs = on_device(draw_feeds(config, (clips, *[max(2, clips // 2)] * (batch - 1)), clips), "fp32", device)
    text = TextInput(inputs["word_vectors"], inputs["word_mask"], inputs["word_unknown"], inputs["char_ids"])
    targets = _targets(batch, device)

    def loss() -> Tensor:
        torch.manual_seed(SEED)
        output = network(inputs["video"], inputs["audio"], inputs["clip_mask"], text)
        return total_loss(output, targets, 1.0).total

    def run() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    network.eval()
    with torch.no_grad():
        first = float(loss())
    network.train()
    return first, run


def _targets(batch: int, device: str) -> Targets:
    one = torch.ones(batch, dtype=torch.int64, device=device)
    pair = torch.tensor([[0, 1]] * batch, device=device)
    return Targets(start=0 * one, end=one, positives=pair, negatives=pair)
