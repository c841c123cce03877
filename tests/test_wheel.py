"""The built wheel, installed where nothing else of this project is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("img_deploy", "export", "kernels", "training", "benchmarks")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, and what its build had to say."""
    pytest.importorskip("setuptools", minversion="77", reason="pyproject.toml is of setuptools 77 or later")
    place = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "source")
    build = ("wheel", "-v", "--no-deps", "--no-index", "--no-build-isolation", "-w", place, place / "source")
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, build)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(place.glob("*.whl")), done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Function: run the installed ``img-deploy`` in a folder of its own -> what it printed."""
    home = tmp_path_factory.mktemp("installed")
    environment = home / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", built[0])
    subprocess.run(list(map(str, pip)), check=True)
    # The libraries that the tests run with. Their own .pth files, one of which may lead to this checkout, are not read.
    site = next(environment.glob("lib/python*/site-packages"))
    (site / "libraries.pth").write_text(str(Path(np.__file__).parents[1]))

    def run(*arguments):
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        command = [environment / "bin" / "img-deploy", *arguments]
        done = subprocess.run(list(map(str, command)), cwd=home, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run([python, "-c", "import img_deploy; print(img_deploy.__file__)"], cwd=home, **CAPTURED)
    assert Path(where.stdout.strip()).is_relative_to(environment)
    return run, home


CAPTURED = {"capture_output": True, "text": True, "check": True}


def test_the_build_is_silent(built):
    """Package data that nobody listed would be dropped by a later setuptools."""
    _, told = built
    assert [line for line in told.splitlines() if "ignored" in line or "importable" in line] == []


def test_the_whole_way_without_the_checkout(installed, golden):
    """A file that the wheel lacks, or a path into the repository, would be found by users alone."""
    run, home = installed
    assert "onnxruntime" in run("doctor")
    golden_run = golden / "tiny_glove"
    run("import", golden_run, "--dataset", golden_run / "dataset.pkl", "--out", "best.pt")
    assert "verified bundle" in run("export", "--ckpt", "best.pt")
    for kind, width in (("video", 24), ("audio", 20)):
        (home / "features" / kind).mkdir(parents=True)
        np.save(home / "features" / kind / "AAAAA.npy", np.ones((9, width), np.float32))
    assert "AAAAA" in run("infer", "features", "--query", "a person opens the door")
