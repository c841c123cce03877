"""The runs of the study, and where each keeps its files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img_deploy.training.config import TrainConfig
from img_deploy.training.synthetic.config import SyntheticConfig

SEEDS = (0, 1, 2)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the videos with audio, whose audio is replaced by noise."""
TRAINED_SHARES = (0.5, 1.0)
"""Shares at which networks are also trained, not only tested."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "no importance": {"use_importance": False},
    "no distillation": {"use_distillation": False},
}
GRANULARITIES: dict[str, dict[str, Any]] = {
    "no local": {"use_local": False},
    "no event": {"use_event": False},
    "no global": {"use_global": False},
}


@dataclass(frozen=True)
class Run:
    """One network: trained on the synthetic set of ``seed`` with a share of noised audio."""

    name: str
    """The ablation."""
    seed: int
    share: float = 0.0

    @property
    def slug(self) -> str:
        return f"{self.name.replace(' ', '-')}-seed{self.seed}-noise{round(100 * self.share)}"

    @property
    def changes(self) -> dict[str, Any]:
        return (ABLATIONS | GRANULARITIES)[self.name]


@dataclass(frozen=True)
class Places:
    """Folders of the study."""

    work: Path

    def data(self, seed: int, share: float = 0.0) -> Path:
        return self.work / "data" / (f"seed{seed}" + (f"-noise{round(100 * share)}" if share else ""))

    def cache(self, seed: int) -> Path:
        return self.work / "cache" / f"seed{seed}"

    def run(self, run: Run) -> Path:
        return self.work / "runs" / run.slug

    def result(self, run: Run) -> Path:
        return self.work / "results" / f"{run.slug}.json"


def planned() -> list[Run]:
    """Every run, the ones that most depends on first."""
    runs = [Run(name, seed) for name in ABLATIONS for seed in SEEDS]
    runs += [Run(name, seed, share) for share in TRAINED_SHARES for name in ("full", "no importance") for seed in SEEDS]
    return runs + [Run(name, seed) for name in GRANULARITIES for seed in SEEDS]


def synthetic_config(seed: int) -> SyntheticConfig:
    """480 training videos and 160 that no run sees, four queries each."""
    return SyntheticConfig(videos=640, test_share=0.25, seed=seed)


def train_config(run: Run, places: Places, steps: int) -> TrainConfig:
    """The anchor's settings: D = 32, batches of 16, learning rate 2e-3 falling to 0."""
    return TrainConfig(
        task="charades",
        features="i3d",
        data=str(places.data(run.seed, run.share)),
        cache=str(places.cache(run.seed)),
        variant="glove",
        dim=32,
        heads=4,
        steps=steps,
        learning_rate=2e-3,
        evaluations=1,
        keep_last=1,
        seed=run.seed,
        threads=1,
        **run.changes,
    )
