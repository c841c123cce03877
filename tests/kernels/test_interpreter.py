"""The numerics of every Triton kernel, on a CPU: each file of ``interpreter/`` runs in a process of its own.

Triton reads ``TRITON_INTERPRET`` when it is imported, and exporting a graph fails with it set, so the kernels cannot
be interpreted in the process that runs the other tests.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "interpreter").glob("test_*.py"))


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (pip install --no-deps triton==3.6.0)")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem.removeprefix("test_"))
def test_kernel_agrees_with_reference(path: Path) -> None:
    """A kernel computes something else than its reference, or its test file tests nothing."""
    command = [sys.executable, "-m", "pytest", str(path), "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    passed = re.search(r"\b([1-9]\d*) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert passed, done.stdout[-2000:]
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-2000:]
