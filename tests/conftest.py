"""Fixtures that every part uses: the small reference runs, and samples of any length."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

# Workers and the programs that tests start share the cores: threads beyond one per process wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
def made_once(shared_folder):
    """Function: a folder that one process makes and every process of this test run sees. Copy it to change it."""

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, lock = shared_folder / name, shared_folder / f"making_{name}"
        while not folder.exists():
            try:
                lock.mkdir()
            except FileExistsError:
                time.sleep(0.2)  # another process makes it
                continue
            try:
                if not folder.exists():
                    make(folder)
            finally:
                lock.rmdir()
        return folder

    return folder_of


WITH_PLUGINS = "tiny_vlm"
"""This run keeps its fused ops as nodes, so that both forms of export go through every test."""


@pytest.fixture(scope="session")
def exported(checkpoints, made_once):
    """Function: the exported fp32 bundle of a small run. Copy it to change it."""
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint

    def folder_of(run: str) -> Path:
        options = ExportOptions(plugins=run == WITH_PLUGINS)
        return made_once(f"exported_{run}", lambda folder: bundle_from_checkpoint(checkpoints[run], folder, options))

    return folder_of


@pytest.fixture
def run_cli(capsys):
    """Function: run a command line in this process -> code, out, err."""

    def run(*arguments):
        from img_deploy.cli.main import main

        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        text = capsys.readouterr()
        return SimpleNamespace(code=left.value.code, out=text.out, err=text.err)

    return run
