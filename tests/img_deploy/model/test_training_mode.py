"""What training needs of the network: gradients everywhere, dropout, fresh slot noise, the warm-up of the gates."""

import pytest
import torch

from img_deploy.errors import ConfigError
from img_deploy.model.config import ModelConfig
from img_deploy.model.network import IMGNetwork

SMALL = {"variant": "tokens", "video_dim": 6, "audio_dim": 5, "text_dim": 7, "dim": 16, "heads": 4, "max_clips": 16}


def loss(out):
    heads = (out.fused, out.visual, out.audio)
    real = [part for head in heads for part in (head.start, head.end) if part is not None]
    return sum(part.clamp(min=-50).square().mean() for part in real) + out.importance.sum() + saliencies(out)


def saliencies(out):
    return sum(head.saliency.square().mean() for head in (out.fused, out.visual, out.audio))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return IMGNetwork(ModelConfig(**SMALL))


@pytest.fixture
def batch(network, batches):
    return batches.collate([batches.draw(network.config, clips, 4, clips) for clips in (9, 16, 3)])


def test_every_parameter_gets_a_gradient(network, batch):
    """A parameter that the graph lost (a detached op, a forgotten branch) would never learn."""
    loss(network.train()(*batch)).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert idle == []
    # The key's bias shifts all scores of a softmax row alike: its gradient is zero by nature.
    flat = [n for n, p in network.named_parameters() if p.grad.abs().max() == 0 and "qkv_bias" not in n]
    assert flat == []


def test_gradients_agree_with_finite_differences(network, batch):
    """The ragged GRU's mask must not cut a gradient that should flow."""
    network = network.eval().double()
    video, audio, mask, text = batch
    text.features = text.features.double()
    video = video.double().requires_grad_()

    def scalar(value):
        out = network(value, audio.double(), mask, text)
        return torch.stack([out.fused.start[mask].sum(), out.fused.end[mask].square().sum()]).sum()

    (gradient,) = torch.autograd.grad(scalar(video), video)
    direction = torch.randn(video.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-4  # the references keep float32 islands, so no smaller
    difference = (scalar(video + step * direction) - scalar(video - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=2e-2)
    assert gradient[0, 9:].abs().max() == 0, "padded clips must not matter"


def same(one, other):
    """Equal but for the order of sums, which depends on how many threads a busy machine gives."""
    return torch.allclose(one, other, atol=1e-6, rtol=1e-6)


def test_dropout_and_fresh_noise_only_in_training(network, batch):
    """Evaluation must be repeatable; training must not reuse the recorded slot noise."""
    with torch.no_grad():
        assert not same(network.train()(*batch).fused.start, network(*batch).fused.start)
        assert same(network.eval()(*batch).fused.start, network(*batch).fused.start)
        quiet = IMGNetwork(ModelConfig(**SMALL, dropout=0.0)).train()
        assert not same(quiet(*batch).fused.start, quiet(*batch).fused.start)
        assert same(quiet(*batch).visual.start, quiet(*batch).visual.start)


def test_the_warm_up_moves_the_gates_from_half_to_the_importance(network, batch):
    """w = 0 must ignore the importance in the fusion, w = 1 use it alone."""
    network = network.eval()
    with torch.no_grad():
        bias = network.fusion.importance.bias
        cold = network(*batch, importance_weight=0.0).fused.start
        warm = network(*batch).fused.start
        bias += 3.0
        assert same(network(*batch, importance_weight=0.0).fused.start, cold)
        assert not same(network(*batch).fused.start, warm)


@pytest.mark.parametrize("switch", ["use_importance", "use_local", "use_event", "use_global"])
def test_every_ablation_runs_and_learns(batches, switch):
    """The paper's ablation tables need each part to be left out."""
    network = IMGNetwork(ModelConfig(**SMALL, **{switch: False}))
    whole = IMGNetwork(ModelConfig(**SMALL))
    count = [sum(p.numel() for p in net.parameters()) for net in (network, whole)]
    assert count[0] < count[1]
    batch = batches.collate([batches.draw(network.config, 5, 3, 0)])
    loss(network.train()(*batch)).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_initial_values_follow_the_paper_s_code():
    """Stacked parameters must be drawn matrix by matrix: one Xavier draw over the stack has other bounds."""
    torch.manual_seed(0)
    network = IMGNetwork(ModelConfig(variant="glove", chars=9, dim=64, heads=4))
    bound = (6 / 128) ** 0.5
    for weight in (network.visual.self_attention.qkv_weight, network.fusion.event.slot_attention.qkv_weight):
        assert bound * 0.98 < weight.abs().max() <= bound
    assert (6 / (7 + 64 * 7)) ** 0.5 * 0.95 < network.visual.encoder.conv_block.depthwise_weight.abs().max() <= 0.116
    assert network.visual.words.char_table.weight[0].abs().max() == 0
    assert network.visual.self_attention.qkv_bias.abs().max() == 0
    gru = network.fusion.multi_scale.stacks[0].weight_hh
    assert 32**-0.5 * 0.98 < gru.abs().max() <= 32**-0.5


def test_a_configuration_reports_all_its_problems():
    """One problem per run of the command wastes the user's time."""
    with pytest.raises(ConfigError) as error:
        ModelConfig(variant="glove", chars=0, dim=30, heads=4, slots=0)
    for part in ("chars is 0", "not a multiple of heads", "slots is 0"):
        assert part in str(error.value)
