"""The training objective: each term a pure function of one batch, in float32 whatever the network's precision.

``B`` samples, ``L`` clips. Logits of padded clips are about -1e30 (or -inf in half precision); labels and sampled
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
        start_logits, end_logits: [B, L].
        start, end: [B] int64, first and last clip of the moment.
    Returns:
        [B] float32.
    """
    return F.cross_entropy(_finite(start_logits), start, reduction="none") + F.cross_entropy(
        _finite(end_logits), end, reduction="none"
    )


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
    label = torch.where(valid, label, torch.zeros_like(label))
    return torch.where(label > 1 - epsilon, torch.ones_like(label), label), valid


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
        good = torch.isfinite(p)
        loss = F.binary_cross_entropy(torch.where(good, p, torch.full_like(p, 0.5)), label.float())
        return torch.where(good.all(), loss, torch.full_like(loss, float("nan")))


def distillation_loss(
    teacher_start: Tensor, teacher_end: Tensor, student_start: Tensor, student_end: Tensor, temperature: float
) -> Tensor:
    """τ² Σ_clips [KL(softmax(teacher_start / τ) || softmax(student_start / τ)) + the same for end].

    The teacher is detached.

    Args:
        teacher_start, ..., student_end: [B, L] logits.
    Returns:
        [B] float32.
    """
    start = _kl(teacher_start.detach(), student_start, temperature)
    return temperature**2 * (start + _kl(teacher_end.detach(), student_end, temperature))


def saliency_loss(saliency: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Σ_k max(0, margin + s[negative_k] - s[positive_k]) * 2 / (2 B): summed over a batch, a mean over pairs times 2.

    Args:
        saliency: [B, L].
        positives, negatives: [B, K] int64, clips inside and outside the moment.
    Returns:
        [B] float32.
    """
    scores = saliency.float()
    gap = margin + scores.gather(1, negatives) - scores.gather(1, positives)
    return gap.clamp(min=0).sum(1) * 2 / positives.numel()


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
    heads = {"fused": output.fused, "visual": output.visual, "audio": output.audio}
    location = {name: location_loss(head.start, head.end, targets.start, targets.end) for name, head in heads.items()}
    saliency = {
        name: saliency_loss(head.saliency, targets.positives, targets.negatives, config.margin)
        for name, head in heads.items()
    }
    teacher = heads.pop("fused")
    distill = {
        name: distillation_loss(teacher.start, teacher.end, head.start, head.end, config.temperature)
        for name, head in heads.items()
    }
    label, valid = pseudo_importance(location["visual"], location["audio"], config.gamma, config.epsilon)
    terms = {
        "location_fused": location["fused"].mean(),
        "location_visual": location["visual"].mean(),
        "location_audio": _valid_mean(location["audio"], valid),
        "saliency_fused": saliency["fused"].sum(),
        "saliency_visual": saliency["visual"].sum(),
        "saliency_audio": _valid_sum(saliency["audio"], valid),
        "distill_visual": distill["visual"].mean(),
        "distill_audio": _valid_mean(distill["audio"], valid),
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


def _kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) per sample, [B]: Σ p_t (log p_t - log p_s)."""
    log_teacher = F.log_softmax(_finite(teacher) / temperature, dim=1)
    log_student = F.log_softmax(_finite(student) / temperature, dim=1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1)


def _finite(logits: Tensor) -> Tensor:
    """Float32 logits with minus infinity (an overflowed mask of half precision) made finite; NaN stays NaN."""
    return logits.float().clamp(min=LOWEST_LOGIT)


def _valid_sum(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, torch.zeros_like(values)).sum()


def _valid_mean(values: Tensor, valid: Tensor) -> Tensor:
    return _valid_sum(values, valid) / (valid.sum() + 1e-6)
