"""Golden values shared by the tests of training."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
