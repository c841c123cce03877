"""Fixtures that every part uses: the small reference runs, and samples of any length."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

GOLDEN = Path(__file__).parent / "golden"
RUNS = ("tiny_glove", "tiny_glove_deep", "tiny_vlm")

# How long an example takes says something about the machine's load, nothing about the code; fixtures that examples
# share are meant to be shared.
CALM = (HealthCheck.too_slow, HealthCheck.function_scoped_fixture)
settings.register_profile("img-deploy", deadline=None, suppress_health_check=CALM)
settings.load_profile("img-deploy")


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


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder that all processes of this test run see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def exported(checkpoints, shared_folder):
    """Function: the exported fp32 bundle of a small run, made once for all processes. Copy it to change it."""
    from img_deploy.export.bundle_from_checkpoint import bundle_from_checkpoint

    def folder_of(run: str) -> Path:
        folder, lock = shared_folder / f"exported_{run}", shared_folder / f"exporting_{run}"
        while not folder.exists():
            try:
                lock.mkdir()
            except FileExistsError:
                time.sleep(0.2)  # another process makes it
                continue
            try:
                if not folder.exists():
                    bundle_from_checkpoint(checkpoints[run], folder)
            finally:
                lock.rmdir()
        return folder

    return folder_of
