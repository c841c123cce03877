"""The training objective: each term a pure function of one batch, in float32 whatever the network's precision.

``B`` samples, ``L`` clips; logits and saliency of several heads may be stacked, [H, B, L], which takes no more
operations than one head. Logits of padded clips are about -1e30 (or -inf in half precision); labels and sampled
clips always lie on real clips. Source: arXiv 2508.04273, section 3.4 (localisation, audio importance, saliency,
cross-modal distillation); the values are those of the published training code.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.training.constants import LossConfig

if TYPE_CHECKING:
    from img_deploy.model.network import NetworkOutput

LOWEST_LOGIT = -1e30
"""Stands for minus infinity; finite, so that 0 * (difference of two such) is 0 and not NaN."""


@dataclass(frozen=True)
class Targets:
    """Labels of a batch, in clips. ``start``, ``end`` [B]; ``positives``, ``negatives`` [B, 2]; all int64."""

    start: Tensor
    end: Tensor
    positives: Tensor
    """Two clips of the moment, for the saliency loss."""
    negatives: Tensor
    """Two clips outside it."""


@dataclass(frozen=True)
class LossTerms:
    """The objective and its terms before their weights (scalars), with the two vectors [B] behind them."""

    total: Tensor
    location_fused: Tensor
    location_visual: Tensor
    location_audio: Tensor
    saliency_fused: Tensor
    saliency_visual: Tensor
    saliency_audio: Tensor
    distill_visual: Tensor
    distill_audio: Tensor
    importance: Tensor
    pseudo_label: Tensor
    audio_valid: Tensor

    def scalars(self) -> dict[str, Tensor]:
        """The terms by name, detached, for logs."""
        names = [field.name for field in fields(self) if field.name not in ("pseudo_label", "audio_valid")]
        return {name: getattr(self, name).detach() for name in names}


def location_loss(start_logits: Tensor, end_logits: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """CE(start_logits, start) + CE(end_logits, end) over the clips of each sample.

    Args:
        start_logits, end_logits: [B, L] or [H, B, L].
        start, end: [B] int64, first and last clip of the moment.
    Returns:
        [B] or [H, B] float32.
    """
    logits = _both(start_logits, end_logits)
    labels = torch.stack([start, end]).expand(logits.shape[:-1])
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape).sum(-2)


def pseudo_importance(visual_loss: Tensor, audio_loss: Tensor, gamma: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """y = exp(visual_loss / γ) / (exp(audio_loss / γ) + exp(visual_loss / γ)): high where sight alone does badly.

    Then y <= ε becomes 0 and y > 1 - ε becomes 1. No gradient flows into the losses.

    Args:
        visual_loss, audio_loss: [B], location losses of the two single-modality heads.
    Returns:
        The label [B] float32 and ``audio_valid`` [B] bool, y > ε before the rounding.
    """
    label = torch.sigmoid((visual_loss.detach().float() - audio_loss.detach().float()) / gamma)
    valid = label > epsilon
    return label.masked_fill(~valid, 0).masked_fill(label > 1 - epsilon, 1), valid


def importance_loss(importance: Tensor, label: Tensor) -> Tensor:
    """mean BCE(importance, label) = -mean(y log p + (1 - y) log(1 - p)).

    Args:
        importance: [B], in 0..1. label: [B], in 0..1.
    Returns:
        Scalar float32.
    """
    # Autocast refuses binary_cross_entropy on half precision, and rightly: log(1 - p) wants float32.
    # NaN it refuses with an error of its own, on a GPU by ending the process: the loss shall be NaN instead.
    with torch.autocast(importance.device.type, enabled=False):
        p = importance.float()
        hole = (p - p).detach()  # NaN where p is not finite, else 0
        return F.binary_cross_entropy(p.masked_fill(hole.isnan(), 0.5), label.float()) + hole.sum()


def distillation_loss(
    teacher_start: Tensor, teacher_end: Tensor, student_start: Tensor, student_end: Tensor, temperature: float
) -> Tensor:
    """τ² Σ_clips [KL(softmax(teacher_start / τ) || softmax(student_start / τ)) + the same for end].

    The teacher is detached.

    Args:
        teacher_start, teacher_end: [B, L] logits. student_start, student_end: [B, L] or [H, B, L].
    Returns:
        [B] or [H, B] float32.
    """
    teacher, student = (
        F.log_softmax(_both(*each) / temperature, dim=-1)
        for each in ((teacher_start.detach(), teacher_end.detach()), (student_start, student_end))
    )
    return temperature**2 * (teacher.exp() * (teacher - student)).sum((-3, -1))


def saliency_loss(saliency: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Σ_k max(0, margin + s[negative_k] - s[positive_k]) * 2 / (2 B): summed over a batch, a mean over pairs times 2.

    Args:
        saliency: [B, L] or [H, B, L].
        positives, negatives: [B, K] int64, clips inside and outside the moment.
    Returns:
        [B] or [H, B] float32.
    """
    clips = torch.cat([negatives, positives], dim=1).expand(*saliency.shape[:-1], -1)
    negative, positive = saliency.float().gather(-1, clips).chunk(2, dim=-1)
    return (margin + negative - positive).clamp(min=0).sum(-1) * 2 / positives.numel()


def total_loss(
    output: "NetworkOutput", targets: Targets, distill_warm_up: float, config: LossConfig = LossConfig()
) -> LossTerms:
    """The objective of one batch.

    total = mean loc_fused + mean loc_visual + Σ valid·loc_audio / (n_valid + 1e-6)
          + 0.5 (Σ valid·sal_audio + Σ sal_fused + Σ sal_visual)
          + 10 w_kd (Σ valid·kd_audio / (n_valid + 1e-6) + mean kd_visual)
          + 5 BCE(importance, pseudo-label)

    Args:
        output: the three heads, each with [B, L] logits and saliency, and ``importance`` [B] in 0..1.
        distill_warm_up: w_kd of the epoch, see :func:`img_deploy.training.schedule.warm_up`.
    """
    heads = (output.fused, output.visual, output.audio)
    starts, ends = torch.stack([head.start for head in heads]), torch.stack([head.end for head in heads])
    location = location_loss(starts, ends, targets.start, targets.end).unbind(0)
    saliencies = torch.stack([head.saliency for head in heads])
    saliency = saliency_loss(saliencies, targets.positives, targets.negatives, config.margin).unbind(0)
    distill = distillation_loss(starts[0], ends[0], starts[1:], ends[1:], config.temperature).unbind(0)
    label, valid = pseudo_importance(location[1], location[2], config.gamma, config.epsilon)
    left_out, count = ~valid, valid.sum() + 1e-6
    terms = {
        "location_fused": location[0].mean(),
        "location_visual": location[1].mean(),
        "location_audio": location[2].masked_fill(left_out, 0).sum() / count,
        "saliency_fused": saliency[0].sum(),
        "saliency_visual": saliency[1].sum(),
        "saliency_audio": saliency[2].masked_fill(left_out, 0).sum(),
        "distill_visual": distill[0].mean(),
        "distill_audio": distill[1].masked_fill(left_out, 0).sum() / count,
        "importance": importance_loss(output.importance, label),
    }
    return LossTerms(_weighted(terms, distill_warm_up, config), **terms, pseudo_label=label, audio_valid=valid)


def _weighted(terms: dict[str, Tensor], distill_warm_up: float, config: LossConfig) -> Tensor:
    location = terms["location_fused"] + terms["location_visual"] + terms["location_audio"]
    saliency = terms["saliency_audio"] + terms["saliency_fused"] + terms["saliency_visual"]
    distill = terms["distill_audio"] + terms["distill_visual"]
    return (
        location
        + config.saliency_weight * saliency
        + config.distill_weight * distill_warm_up * distill
        + config.importance_weight * terms["importance"]
    )


def _both(start: Tensor, end: Tensor) -> Tensor:
    """[..., B, L] twice -> [..., 2, B, L] float32. Minus infinity (an overflowed mask of half precision) becomes
    finite, NaN stays NaN."""
    return torch.stack([start, end], dim=-3).float().clamp(min=LOWEST_LOGIT)
