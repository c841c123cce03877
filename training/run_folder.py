"""The files of one training run: configuration, states to resume from, checkpoints, card."""

import json
import re
from pathlib import Path
from typing import Any

from img_deploy.errors import CheckpointError, ConfigError
from img_deploy.files import write_text
from img_deploy.training.config import CONFIG_FILE, TrainConfig, read_config

BEST, STATE, CARD_JSON, CARD_TEXT, LOGS = "best.pt", "resume.ckpt", "card.json", "card.md", "logs"
_LAST = re.compile(r"last-(\d+)\.pt")


class RunFolder:
    """``config.yaml``, ``best.pt``, ``last-STEP.pt``, ``resume.ckpt``, ``logs/``, ``card.json`` and ``card.md``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.best, self.state, self.logs = self.path / BEST, self.path / STATE, self.path / LOGS

    def check_new(self) -> None:
        """Raises ConfigError where the folder holds a run already."""
        if (self.path / CONFIG_FILE).exists():
            raise ConfigError(f"{self.path}: holds a training run; continue it with --resume, or give another --out")

    def begin(self, config: TrainConfig) -> None:
        """Start a new run. Raises ConfigError where the folder holds one already, or cannot be written."""
        self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            config.save(self.path / CONFIG_FILE)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror}); give another --out") from None

    def resume(self, given: dict[str, Any]) -> TrainConfig:
        """The run's own configuration.

        Args:
            given: settings that were stated anew; they must be the run's.
        Raises:
            ConfigError: no run here, or a setting differs.
        """
        file = self.path / CONFIG_FILE
        if not file.exists():
            raise ConfigError(f"{self.path}: holds no training run to resume (no {CONFIG_FILE}); leave out --resume")
        config = read_config(file, {})
        stored = config.model_dump()
        differing = [
            f"{name} is {stored.get(name)!r}, got {value!r}"
            for name, value in given.items()
            if value is not None and stored.get(name) != value
        ]
        if differing:
            raise ConfigError(f"{file}: a run goes on with its own settings: {'; '.join(differing)}")
        return config

    def last(self, step: int) -> Path:
        return self.path / f"last-{step:07d}.pt"

    def forget_old(self, keep: int, step: int) -> None:
        """Delete all but the newest ``keep`` of the ``last-*.pt`` up to ``step`` (later ones are of a lost part)."""
        found = sorted((int(match[1]), path) for path in self.path.iterdir() if (match := _LAST.fullmatch(path.name)))
        for _, path in [pair for pair in found if pair[0] <= step][:-keep]:
            path.unlink(missing_ok=True)

    def first_step(self) -> int:
        """The step to resume from; 0 where no state was kept yet. Raises CheckpointError."""
        if not self.state.exists():
            return 0
        import torch

        try:
            return int(torch.load(self.state, map_location="cpu", weights_only=True, mmap=True)["global_step"])
        except Exception as error:
            raise CheckpointError(
                f"{self.state}: cannot be read ({type(error).__name__}); delete it to start the run anew"
            ) from None

    def write_card(self, card: dict[str, Any], text: str) -> None:
        for name, content in ((CARD_JSON, json.dumps(card, indent=1) + "\n"), (CARD_TEXT, text)):
            write_text(self.path / name, content)
