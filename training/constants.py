"""Names of the tasks and their features, and the published constants of the objective. Needs neither numpy nor torch.

Source: arXiv 2508.04273, section 4.1.
"""

from dataclasses import dataclass
from typing import Literal

TaskName = Literal["charades", "charadesAM", "activitynet"]
FeatureName = Literal["i3d", "clip+sf", "iv2"]
SplitName = Literal["train", "test", "val_2"]


@dataclass(frozen=True)
class LossConfig:
    """Constants and weights of the objective. A weight of 0 switches its term off (ablations)."""

    gamma: float = 3.0
    """Temperature of the pseudo-importance label."""
    epsilon: float = 0.2
    """Pseudo-labels up to this are 0 and their audio is left out; labels above 1 - epsilon are 1."""
    temperature: float = 2.0
    """Temperature of the distillation."""
    margin: float = 0.2
    """How far a clip of the moment must score above one outside it."""
    saliency_weight: float = 0.5
    distill_weight: float = 10.0
    """Multiplied by the warm-up of the epoch."""
    importance_weight: float = 5.0


PUBLISHED: dict[TaskName, LossConfig] = {
    "charades": LossConfig(),
    "charadesAM": LossConfig(),
    "activitynet": LossConfig(gamma=2.0, epsilon=0.1),
}
"""By task."""


def wrong_features(task: str | None, features: str) -> str | None:
    """What is wrong with features that a task does not have."""
    wrong = task == "activitynet" and features != "i3d"
    return f"features of activitynet are {features!r}, expected i3d" if wrong else None
