"""The files of one training run: configuration, states to resume from, checkpoints, card."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img_deploy.errors import CheckpointError, ConfigError, is_utf8
from img_deploy.files import write_text
from img_deploy.training.config import CONFIG_FILE, TrainConfig, read_config, with_whole_paths

if TYPE_CHECKING:
    from img_deploy.model.network import IMGNetwork

BEST, STATE, CARD_JSON, CARD_TEXT, LOGS = "best.pt", "resume.ckpt", "card.json", "card.md", "logs"
_LAST = re.compile(r"last-(\d+)\.pt")
_UNFINISHED = re.compile(r"\.(best\.pt|last-\d+\.pt|resume\.ckpt|card\.json|card\.md|config\.yaml)(\.\d+)?\.tmp")
"""What a killed process leaves of a file that it was writing."""


class RunFolder:
    """``config.yaml``, ``best.pt``, ``last-STEP.pt``, ``resume.ckpt``, ``logs/``, ``card.json`` and ``card.md``.

    A block of it (``with``) is the time that a process trains the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.best, self.state, self.logs = self.path / BEST, self.path / STATE, self.path / LOGS
        self._held: int | None = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            os.close(self._held)

    def check_new(self) -> None:
        """Raises ConfigError where the folder holds a run already, or TensorBoard cannot take its name."""
        if not is_utf8(str(self.path)):
            raise ConfigError(f"{self.path}: is not a name in UTF-8; give another --out")
        if (self.path / CONFIG_FILE).exists():
            raise ConfigError(f"{self.path}: holds a training run; continue it with --resume, or give another --out")

    def begin(self, config: TrainConfig) -> None:
        """Start a new run. Raises ConfigError where the folder holds one already, or cannot be written."""
        self.check_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.hold()
            self.check_new()  # another process may have begun one meanwhile
            config.save(self.path / CONFIG_FILE)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror}); give another --out") from None

    def hold(self) -> None:
        """Keep the run to this process until the block ends, and remove what killed ones left unfinished.

        Raises:
            ConfigError: another process is training it.
        """
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        self._held = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self.path}: another process is training this run; wait for it, or give another --out"
            ) from None
        except OSError:  # a file system without locks
            return
        for path in self.path.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)

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
        stored = with_whole_paths(config.model_dump())
        differing = [
            f"{name} is {stored.get(name)!r}, got {value!r}"
            for name, value in with_whole_paths(given).items()
            if name not in stored or stored[name] != value
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

    def first_step(self, network: "IMGNetwork") -> int:
        """The step to resume from; 0 where no state was kept yet.

        Raises:
            CheckpointError: the state is damaged, or of another network.
        """
        if not self.state.exists():
            return 0
        import torch

        try:
            state = torch.load(self.state, map_location="cpu", weights_only=True, mmap=True)
            step = int(state["global_step"])
            kept = {name: list(weight.shape) for name, weight in state["state_dict"].items()}
        except Exception as error:
            raise CheckpointError(
                f"{self.state}: cannot be read ({type(error).__name__}); delete it to start the run anew"
            ) from None
        wanted = {f"network.{name}": list(weight.shape) for name, weight in network.state_dict().items()}
        for name in sorted(kept.keys() | wanted.keys()):
            if kept.get(name) != wanted.get(name):
                raise CheckpointError(
                    f"{self.state}: got {name} of shape {kept.get(name)}, expected {wanted.get(name)} by {CONFIG_FILE} "
                    "and the data; bring back those it was begun with, or give another --out"
                )
        return step

    @property
    def has_card(self) -> bool:
        return (self.path / CARD_TEXT).exists()  # the last file of a run

    def write_card(self, card: dict[str, Any], text: str) -> None:
        for name, content in ((CARD_JSON, json.dumps(card, indent=1) + "\n"), (CARD_TEXT, text)):
            write_text(self.path / name, content)
