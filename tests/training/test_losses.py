"""The objective: golden values, signs of its gradients, and the batches that could break it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.model.network import HeadOutput, NetworkOutput
from img_deploy.training.constants import PUBLISHED, LossConfig
from img_deploy.training.losses import (
    Targets,
    distillation_loss,
    importance_loss,
    location_loss,
    pseudo_importance,
    saliency_loss,
    total_loss,
)

HEADS = {"fused": "av", "visual": "v", "audio": "a"}


@pytest.fixture(scope="module")
def batch(golden_losses):
    """The golden batch as the network gives it: B = 5, 10 clips, four rows padded, one video of one clip."""
    heads = {
        name: HeadOutput(*(golden_losses[f"in.{part}_{suffix}"] for part in ("start", "end", "saliency")))
        for name, suffix in HEADS.items()
    }
    targets = Targets(*(golden_losses[f"in.{name}"] for name in ("start_label", "end_label", "pos", "neg")))
    return NetworkOutput(**heads, importance=golden_losses["in.importance"]), targets


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["charades", "activitynet"])
def test_terms_are_golden(task, batch, golden_losses):
    """A term that differs from the published one trains another model."""
    output, targets = batch
    config = PUBLISHED[task]

    def expected(name):
        return golden_losses[f"{task}.{name}"]

    location = {}
    for name in HEADS:
        head = getattr(output, name)
        location[name] = location_loss(head.start, head.end, targets.start, targets.end)
        close(location[name], expected(f"loc_{name}"))
        saliency = saliency_loss(head.saliency, targets.positives, targets.negatives, config.margin)
        close(saliency, expected(f"saliency_{name}"))
        if name != "fused":
            pair = (output.fused.start, output.fused.end, head.start, head.end)
            close(distillation_loss(*pair, config.temperature), expected(f"distill_{name}"))
    label, valid = pseudo_importance(location["visual"], location["audio"], config.gamma, config.epsilon)
    close(label, expected("pseudo_label"))
    close(valid.float(), expected("audio_valid"))
    close(importance_loss(output.importance, label), expected("importance_loss").squeeze())


@pytest.mark.parametrize("task", ["charades", "activitynet"])
def test_total_is_golden(task, batch, golden_losses):
    """A wrong weight or reduction changes the balance of the terms."""
    terms = total_loss(*batch, distill_warm_up=0.37, config=PUBLISHED[task])
    close(terms.total, golden_losses[f"{task}.total"].squeeze())
    close(terms.location_visual, golden_losses[f"{task}.loc_visual"].mean())
    close(terms.pseudo_label, golden_losses[f"{task}.pseudo_label"])
    assert set(terms.scalars()) >= {"total", "location_audio", "saliency_fused", "distill_audio", "importance"}


def test_weights_switch_terms_off(batch):
    """An ablation must take out its own term and nothing else."""
    full = total_loss(*batch, distill_warm_up=1.0)
    for term, weight, scale in (
        (full.distill_audio + full.distill_visual, "distill_weight", 10),
        (full.importance, "importance_weight", 5),
        (full.saliency_fused + full.saliency_visual + full.saliency_audio, "saliency_weight", 0.5),
    ):
        without = total_loss(*batch, distill_warm_up=1.0, config=LossConfig(**{weight: 0.0}))
        torch.testing.assert_close(full.total - without.total, scale * term, atol=1e-4, rtol=1e-5)
    assert total_loss(*batch, distill_warm_up=0.0).distill_visual > 0


def test_location_pulls_the_label_up():
    """A flipped sign would push the annotated clip away."""
    start, end = (torch.zeros(2, 6, requires_grad=True) for _ in range(2))
    label = torch.tensor([1, 4]), torch.tensor([3, 5])
    location_loss(start, end, *label).sum().backward()
    for logits, clip in zip((start, end), label, strict=True):
        rows = torch.arange(2)
        assert (logits.grad[rows, clip] < 0).all()
        others = torch.ones(2, 6, dtype=torch.bool)
        others[rows, clip] = False
        assert (logits.grad[others] > 0).all()


def test_importance_follows_the_label():
    """Importance must rise to a label above it and fall to one below."""
    importance = torch.tensor([0.5, 0.5], requires_grad=True)
    importance_loss(importance, torch.tensor([1.0, 0.0])).backward()
    assert importance.grad[0] < 0 < importance.grad[1]


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 30), st.floats(0, 30), st.sampled_from(list(PUBLISHED.values())))
def test_pseudo_label_is_high_where_sight_does_badly(visual, audio, config):
    """A label the wrong way round teaches the network to trust the modality that fails."""
    label, valid = pseudo_importance(torch.tensor([visual]), torch.tensor([audio]), config.gamma, config.epsilon)
    reverse, _ = pseudo_importance(torch.tensor([audio]), torch.tensor([visual]), config.gamma, config.epsilon)
    assert 0 <= label <= 1
    assert (label >= reverse) if visual >= audio else (label <= reverse)
    assert valid.item() is (label.item() > 0)
    assert label.item() == 0 or config.epsilon < label <= 1 - config.epsilon + 1e-6 or label.item() == 1


def test_pseudo_label_carries_no_gradient():
    """The label would otherwise train the location heads to make their own audio look important."""
    losses = torch.ones(3, requires_grad=True), torch.full((3,), 2.0, requires_grad=True)
    assert not pseudo_importance(*losses, 3.0, 0.2)[0].requires_grad


def test_distillation_moves_the_student_only():
    """A teacher that moves to its students forgets what it learned from the labels."""
    teacher = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    student = torch.zeros(1, 3, requires_grad=True)
    distillation_loss(teacher, teacher, student, student, 2.0).sum().backward()
    assert teacher.grad is None
    assert student.grad[0, 0] < 0 < student.grad[0, 2]
    assert distillation_loss(teacher, teacher, teacher, teacher, 2.0).item() == 0


def test_saliency_lifts_the_moment_and_stops_at_the_margin():
    """A flipped hinge would mark the clips outside the moment; no hinge would grow scores without end."""
    scores = torch.tensor([[0.0, 0.1, 5.0]], requires_grad=True)
    saliency_loss(scores, torch.tensor([[0, 2]]), torch.tensor([[1, 1]]), 0.2).sum().backward()
    assert scores.grad[0].tolist() == [-1.0, 1.0, 0.0]


def random_output(samples: int, clips: int, real: list[int], mask: float = -1e30) -> NetworkOutput:
    random = torch.Generator().manual_seed(0)
    padded = torch.arange(clips) >= torch.tensor(real)[:, None]

    def head():
        logits = [torch.randn(samples, clips, generator=random).masked_fill(padded, mask) for _ in range(2)]
        return HeadOutput(*(part.requires_grad_() for part in (*logits, torch.randn(samples, clips))))

    importance = torch.rand(samples, generator=random).requires_grad_()
    return NetworkOutput(head(), head(), head(), importance)


def parts(head: HeadOutput) -> list[torch.Tensor]:
    return [head.start, head.end, head.saliency]


def targets_at(start: list[int], end: list[int]) -> Targets:
    first, last = torch.tensor(start), torch.tensor(end)
    return Targets(first, last, torch.stack([first, last], 1), torch.zeros(len(start), 2, dtype=torch.int64))


def test_no_audio_valid_sample_gives_zero_audio_terms():
    """A batch whose audio helps nobody must not divide by zero, nor train the audio head."""
    output = random_output(3, 8, [8, 5, 3])
    with torch.no_grad():  # sight is sure and right, hearing sure and wrong
        for row in range(3):
            output.visual.start[row, 1] = output.visual.end[row, 2] = 20.0
            output.audio.start[row, 0] = output.audio.end[row, 0] = 40.0
    terms = total_loss(output, targets_at([1, 1, 1], [2, 2, 2]), distill_warm_up=1.0)
    assert not terms.audio_valid.any()
    assert terms.location_audio == terms.saliency_audio == terms.distill_audio == 0
    assert torch.isfinite(terms.total)
    terms.total.backward()
    assert all((part.grad == 0).all() for part in parts(output.audio))
    assert all((part.grad != 0).any() for part in parts(output.visual))


@pytest.mark.parametrize("mask", [-1e30, float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_padding_and_short_videos_stay_finite(mask, dtype):
    """Masked clips (-1e30, or -inf once half precision overflows), one-clip videos and moments: no NaN anywhere."""
    output = random_output(4, 6, [6, 1, 3, 2], mask)
    cast = {}
    for name in HEADS:
        head = getattr(output, name)
        cast[name] = HeadOutput(*(part.to(dtype) for part in parts(head)))
    terms = total_loss(
        NetworkOutput(**cast, importance=output.importance.to(dtype)),
        targets_at([2, 0, 0, 1], [2, 0, 2, 1]),
        distill_warm_up=1.0,
    )
    assert all(torch.isfinite(value).all() for value in vars(terms).values())
    assert terms.total.dtype == torch.float32
    terms.total.backward()
    for name in HEADS:
        for part in parts(getattr(output, name)):
            assert torch.isfinite(part.grad).all()
            padded = part.detach() <= -1e29
            assert (part.grad[padded] == 0).all()


def test_video_of_one_clip_costs_nothing_to_locate():
    """Its only clip is certain: any loss would be a constant that hides real progress."""
    output = random_output(1, 4, [1])
    terms = total_loss(output, targets_at([0], [0]), distill_warm_up=1.0)
    for value in (terms.location_fused, terms.location_visual, terms.location_audio, terms.distill_visual):
        assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert terms.pseudo_label.item() == pytest.approx(0.5)


def test_nan_logits_are_not_hidden():
    """A NaN that became a finite loss would train on garbage instead of stopping."""
    output = random_output(2, 4, [4, 4])
    with torch.no_grad():
        output.fused.start[0, 0] = float("nan")
    assert torch.isnan(total_loss(output, targets_at([0, 1], [1, 2]), distill_warm_up=1.0).total)


def test_total_under_autocast_is_float32():
    """Autocast refuses binary cross-entropy in half precision: mixed precision would crash at the first step."""
    output = random_output(2, 4, [4, 4])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = total_loss(output, targets_at([0, 1], [1, 2]), distill_warm_up=1.0)
    plain = total_loss(output, targets_at([0, 1], [1, 2]), distill_warm_up=1.0)
    assert terms.total.dtype == torch.float32
    torch.testing.assert_close(terms.total, plain.total)
