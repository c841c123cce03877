"""Golden values shared by the tests of training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from img_deploy.training.config import TrainConfig

PIECES = Path(__file__).parents[1] / "golden" / "pieces"


@pytest.fixture(scope="session")
def golden_json() -> Callable[[str], Any]:
    """Reads ``tests/golden/pieces/NAME.json``."""
    return lambda name: json.loads((PIECES / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def golden_losses() -> dict[str, Any]:
    """Tensors of ``losses.safetensors``: inputs ``in.*`` and values ``charades.*``, ``activitynet.*`` for B = 5."""
    from safetensors.torch import load_file

    return load_file(PIECES / "losses.safetensors")


@pytest.fixture(scope="session")
def narrow_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic Charades of 24 short videos with narrow features: 60 training queries, 12 of the test set."""
    from img_deploy.training.synthetic.config import SyntheticConfig
    from img_deploy.training.synthetic.writer import write_synthetic

    folder = tmp_path_factory.mktemp("narrow") / "data"
    sizes = {"videos": 24, "moments": 3, "min_clips": 11, "max_clips": 14, "max_moment": 4}
    shares = {"noise_share": 0.1, "no_audio_share": 0.1}
    write_synthetic(folder, SyntheticConfig(**sizes, **shares, video_width=24, audio_width=20))
    return folder


@pytest.fixture(scope="session")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 Charades-like and 8 ActivityNet-like videos of real widths. Not to be changed."""
    from img_deploy.training.synthetic.config import KINDS, SyntheticConfig
    from img_deploy.training.synthetic.writer import write_synthetic

    tiny = {"videos": 8, "moments": 3, "min_clips": 11, "max_clips": 14, "max_moment": 4}
    folder = tmp_path_factory.mktemp("kinds") / "data"
    write_synthetic(folder, SyntheticConfig(kinds=KINDS, no_audio_share=0.25, **tiny))
    return folder


@pytest.fixture
def tiny_config(narrow_data: Path, tmp_path_factory: pytest.TempPathFactory) -> "Callable[..., TrainConfig]":
    """Function: settings of a run of seconds; keyword arguments change them."""
    from img_deploy.training.config import TrainConfig

    cache = tmp_path_factory.getbasetemp() / "features"

    def make(**changes: Any) -> TrainConfig:
        values = {
            "task": "charades",
            "features": "i3d",
            "data": str(narrow_data),
            "cache": str(cache),
            "video_width": 24,
            "audio_width": 20,
            "dim": 8,
            "heads": 2,
            "char_dim": 4,
            "slot_iterations": 1,
            "gru_layers": 1,
            "epochs": 2,
            "batch_size": 16,
            "learning_rate": 2e-3,
            "evaluations": 1,
            "accelerator": "cpu",
            "threads": 1,
        }
        return TrainConfig(**{**values, **changes})

    return make
