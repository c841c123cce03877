"""The stacked network against the network itself: what is trained on a GPU is what is evaluated."""

import pytest
import torch

from img_deploy.kernels import functional
from img_deploy.model import layers, stacked, stacked_ops
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork
from img_deploy.model.stacked import StackedNetwork

SIZES = {"video_dim": 6, "audio_dim": 5, "text_dim": 7, "dim": 16, "heads": 4, "max_clips": 16, "gru_layers": 2}
GLOVE = {"variant": "glove", "chars": 11, "char_dim": 5}
CONFIGS = {
    "glove": ModelConfig(**SIZES, **GLOVE),
    "tokens": ModelConfig(**SIZES, variant="tokens"),
    "one slot, one iteration": ModelConfig(**SIZES, **GLOVE, slots=1, slot_iterations=1),
    **{
        switch: ModelConfig(**SIZES, variant="tokens", **{switch: False})
        for switch in ("use_importance", "use_local", "use_event", "use_global")
    },
}


def network_of(config: ModelConfig) -> IMGNetwork:
    """With weights off the values that training begins with: a bias of zero would hide that it was forgotten."""
    torch.manual_seed(0)
    network = IMGNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.draw_slot_noise(3)
    return network


def outputs(out):
    heads = {"fused": out.fused, "visual": out.visual, "audio": out.audio}
    found = {f"{name}.{key}": value for name, head in heads.items() for key, value in vars(head).items()}
    return found | {"importance": out.importance}


def loss(found):
    """Every output has a weight of its own in it."""
    total = torch.zeros(())
    for number, value in enumerate(found.values()):
        draw = torch.randn(value.shape, generator=torch.Generator().manual_seed(number))
        total = total + (value.clamp(min=-50) * draw).sum()
    return total


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("clips", [(9, 16, 3), (1,), (5, 5)])
def test_outputs_and_gradients_are_the_network_s(batches, name, clips):
    """A network trained on a GPU would be another one than is evaluated, exported and trained on a CPU."""
    network = network_of(CONFIGS[name]).eval()
    batch = batches.collate([batches.draw(network.config, count, 2 + count % 5, count) for count in clips], garbage=3.0)
    runs = []
    for compute in (network, StackedNetwork(network)):
        network.zero_grad()
        found = outputs(compute(*batch, importance_weight=0.7))
        loss(found).backward()
        runs.append((found, {key: value.grad for key, value in network.named_parameters()}))
    (wanted, gradients), (found, stacked_gradients) = runs
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, atol=2e-5, rtol=1e-5, msg=lambda m, key=key: f"{key}: {m}")
    largest = max(grad.abs().max() for grad in gradients.values() if grad is not None)
    for key, grad in gradients.items():
        other = stacked_gradients[key]
        assert (grad is None) == (other is None), key
        if grad is not None:
            torch.testing.assert_close(
                other, grad, atol=float(2e-6 * largest), rtol=2e-4, msg=lambda m, key=key: f"{key}: {m}"
            )


def test_it_follows_the_weights_as_they_are_learned(batches):
    """Parameters are stacked anew in every step: kept from the first one, nothing would be learned."""
    network = network_of(CONFIGS["glove"]).eval()
    batch = batches.collate([batches.draw(network.config, 4, 3, 0)])
    compute = StackedNetwork(network)
    compute(*batch)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    torch.testing.assert_close(compute(*batch).fused.start, network(*batch).fused.start, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["glove", "tokens"])
def test_the_same_activations_are_dropped(batches, monkeypatch, name):
    """A place without dropout, or with dropout of its own, would be another regularisation than the paper's."""
    network = network_of(CONFIGS[name]).train()
    batch = batches.collate([batches.draw(network.config, count, 3, count) for count in (6, 4)])
    dropped = []

    def counted(x, p):
        dropped.append((x.numel(), p))
        return functional.dropout(x, p)

    places = [layers, stacked, stacked_ops]
    from importlib import import_module

    ops = ("attention_block", "conv_block", "query_attention", "local_fusion", "global_fusion", "word_embedding")
    places += [import_module(f"img_deploy.kernels.{op}.reference") for op in ops]
    for place in places:
        monkeypatch.setattr(place, "dropout", counted)
    totals = []
    for compute in (network, StackedNetwork(network)):
        dropped.clear()
        compute(*batch)
        assert {p for _, p in dropped} == {network.config.dropout}
        totals.append((sum(count for count, _ in dropped), len(dropped)))
    (whole, calls), (stacked_whole, stacked_calls) = totals
    assert stacked_whole == whole
    assert stacked_calls < 0.5 * calls


def test_fresh_slot_noise_while_training(batches):
    """The recorded noise in every step would train slots for that noise alone."""
    network = network_of(ModelConfig(**SIZES, variant="tokens", dropout=0.0)).train()
    batch = batches.collate([batches.draw(network.config, 5, 3, 0)])
    compute = StackedNetwork(network)
    torch.manual_seed(1)
    first, second = compute(*batch).fused.start, compute(*batch).fused.start
    assert not torch.allclose(first, second, atol=1e-4)
    torch.manual_seed(1)
    torch.testing.assert_close(network(*batch).fused.start, first, atol=2e-5, rtol=1e-5)


def test_half_precision(batches):
    """Mixed precision: the products in bfloat16, the outputs in float32, the same up to its rounding."""
    network = network_of(CONFIGS["glove"]).eval()
    batch = batches.collate([batches.draw(network.config, count, 3, count) for count in (6, 4)])
    with torch.autocast("cpu", torch.bfloat16):
        found = outputs(StackedNetwork(network)(*batch))
    loss(found).backward()
    assert all(value.dtype == torch.float32 for value in found.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    wanted = network(*batch)
    mask = batch[2]
    for key in ("start", "end", "saliency"):
        got, want = getattr(wanted.fused, key)[mask], found[f"fused.{key}"][mask]
        torch.testing.assert_close(got, want, atol=0.25, rtol=0.1)
