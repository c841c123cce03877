"""Fixtures that every part uses: the small reference runs, and samples of any length."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
RUNS = ("tiny_glove", "tiny_glove_deep", "tiny_vlm")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of recorded values."""
    return GOLDEN


@pytest.fixture(scope="session")
def checkpoints():
    """The small reference runs, imported: name -> Checkpoint."""
    from img_deploy.model.reference_run import import_run

    found = {}
    for name in RUNS:
        run = GOLDEN / name
        dataset = run / "dataset.pkl"
        found[name] = import_run(run, dataset if dataset.exists() else None).checkpoint
    return found
