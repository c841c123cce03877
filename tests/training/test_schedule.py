"""Warm-ups, learning rate and parameter groups."""

import pytest
import torch

from img_deploy.errors import ConfigError
from img_deploy.training.schedule import (
    build_optimizer,
    linear_decay,
    parameter_groups,
    warm_up,
)


def test_warm_up_golden(golden_json):
    """A wrong curve trains the heads on the wrong mixture in the first epochs, unseen in any metric."""
    for epochs, values in golden_json("warmup").items():
        got = [warm_up(epoch, int(epochs)) for epoch in range(len(values))]
        assert got == pytest.approx(values, abs=1e-9)


def test_warm_up_can_be_switched_off():
    """An ablation without warm-up would divide by zero."""
    assert warm_up(0, 0) == 1.0


def test_learning_rate_falls_in_a_line_to_zero():
    """A rate that stays up, or ends early, would not be the published schedule."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer, scheduler = build_optimizer([("weight", weight)], total_steps=4, learning_rate=8e-4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([8e-4, 6e-4, 4e-4, 2e-4])
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert linear_decay(9, 4) == 0.0


def test_no_steps_is_refused():
    """An empty training set would divide by zero far from its cause."""
    with pytest.raises(ConfigError, match="total_steps"):
        build_optimizer([("weight", torch.nn.Parameter(torch.ones(1)))], total_steps=0)


def test_weight_decay_goes_by_name():
    """Slot attention's norm weights decay, every other norm and every bias does not; each parameter in one group."""
    names = {
        "visual.linear.weight": True,
        "slots.norm_input_weight": True,
        "visual.linear.bias": False,
        "gate.layer_norm_weight": False,
        "encoder.LayerNorm.weight": False,
    }
    parameters = {name: torch.nn.Parameter(torch.ones(1)) for name in names}
    frozen = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    decayed, plain = parameter_groups([*parameters.items(), ("glove.weight", frozen)], weight_decay=0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    for name, decays in names.items():
        assert any(p is parameters[name] for p in decayed["params"]) is decays
        assert any(p is parameters[name] for p in plain["params"]) is not decays
    assert not any(p is frozen for p in [*decayed["params"], *plain["params"]])


def test_networks_norms_are_named_for_the_rule():
    """A layer norm of the network called otherwise would silently decay (only slot attention's norms do)."""
    from img_deploy.model.config import ModelConfig
    from img_deploy.model.network import IMGNetwork

    network = IMGNetwork(ModelConfig(dim=8, heads=2, video_dim=4, audio_dim=4, chars=5, max_clips=4))
    decayed, _ = parameter_groups(network.named_parameters())
    inside = {id(parameter) for parameter in decayed["params"]}
    norms = {name for name, p in network.named_parameters() if "norm" in name and "bias" not in name}
    slots = {name for name in norms if "slot_attention" in name}
    assert slots
    assert {name for name, p in network.named_parameters() if id(p) in inside} & norms == slots
