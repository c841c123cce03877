"""The numerics of every Triton kernel, on a CPU: the files of ``interpreter/``, in processes of their own.

Triton reads ``TRITON_INTERPRET`` when it is imported, and exporting a graph fails with it set, so the kernels cannot
be interpreted in the process that runs the other tests.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent / "interpreter").glob("test_*.py"), key=lambda path: -path.stat().st_size)
PARTS = 4
"""Processes: each takes seconds to begin, and two cores share them."""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (pip install --no-deps triton==3.6.0)")
@pytest.mark.parametrize("part", range(PARTS))
def test_kernels_agree_with_their_references(part: int) -> None:
    """A kernel computes something else than its reference, or its test file tests nothing."""
    files = FILES[part::PARTS]
    options = ("-v", "-x", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *map(str, files), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for file in files:
        assert f"{file.name}::" in done.stdout, f"{file.name} tests nothing"
    assert "skipped" not in done.stdout.splitlines()[-1], done.stdout[-2000:]
