"""TensorRT's own Python bindings where they are at hand, without TensorRT: its libraries are replaced by stubs.

``make trt-bindings`` puts the bindings into ``.trt/<version>/``. A test that needs them is skipped without them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
VERSIONS = ("10.15.1.29", "10.16.1.11", "11.4.0.106")
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``stubs("11")``: folder with stand-ins for the libraries of a major version."""
    made: dict[str, Path] = {}

    def build(major: str) -> Path:
        if major not in made:
            compiler = shutil.which(os.environ.get("CC", "cc"))
            if compiler is None:
                pytest.skip("no C compiler to make stand-ins for TensorRT's libraries with")
            folder = tmp_path_factory.mktemp(f"stubs{major}")
            source = HERE / "bindings" / "stubs.c"
            for library in LIBRARIES:
                target = folder / f"{library}.so.{major}"
                subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
            made[major] = folder
        return made[major]

    return build


@pytest.fixture(scope="session")
def in_bindings(stubs: Callable[[str], Path]) -> Callable[..., str]:
    """``in_bindings("11.4.0.106", "plugins.py", argument)``: the last line that a script of ``bindings/`` prints."""

    def run(version: str, script: str, *arguments: str | Path) -> str:
        package = ROOT / ".trt" / version
        if not (package / "tensorrt_bindings").is_dir():
            pytest.skip(f"no TensorRT {version} bindings in .trt/ (make trt-bindings)")
        folder = HERE / "bindings"
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(stubs(version.split(".")[0])),
            "PYTHONPATH": os.pathsep.join((str(package), str(folder), str(ROOT))),
        }
        command = [sys.executable, str(folder / script), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]  # before it, TensorRT's logger

    return run
