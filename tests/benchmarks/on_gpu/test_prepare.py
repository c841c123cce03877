"""Kernels compiled without a GPU: Triton finds them in the folder, wherever it travelled."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from img_deploy.benchmarks.on_gpu import prepare
from img_deploy.kernels.dispatch import OP_NAMES

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
ONE_OP = """
import sys
from pathlib import Path
from img_deploy.benchmarks.on_gpu import prepare

def one_op(precision, tell):
    from img_deploy.benchmarks.on_gpu.network import TINY
    from img_deploy.benchmarks.on_gpu.op_calls import op_calls

    for call in op_calls(TINY, precision, "cpu", (4, 2), 4, "global_fusion"):
        call.kernel()

prepare._run_everything = one_op
print(prepare.prepare(Path(sys.argv[1]), print, ("fp16",)))
"""


def launch_one_op(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", ONE_OP, str(folder)], env=environment, check=True, capture_output=True)


def state(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in prepare.compiled(folder)}


def test_prepared_kernels_are_found_where_the_folder_travelled(tmp_path):
    """Minutes on a GPU would go into compiling what is compiled already."""
    launch_one_op(tmp_path / "made")
    made = state(tmp_path / "made")
    assert len(made) == 1
    assert {path.suffix for path in (tmp_path / "made").glob("*/*")} == {".cubin", ".json"}
    (tmp_path / "made").rename(tmp_path / "there")
    assert prepare.settle(tmp_path / "there") is None
    launch_one_op(tmp_path / "there")
    assert state(tmp_path / "there") == made


def test_another_compiler_is_told(tmp_path):
    """All kernels would compile anew without a word, and the time be missing."""
    assert "expected a folder that --prepare filled" in prepare.settle(tmp_path)
    (tmp_path / prepare.STAMP).write_text("Triton 2.0, Python 3.8, x86_64")
    assert "made by Triton 2.0, Python 3.8, x86_64; here is Triton" in prepare.settle(tmp_path)


def test_every_kernel_is_compiled(monkeypatch):
    """One that is forgotten would compile on the GPU, for seconds, in the middle of a measurement."""
    from triton.runtime.jit import JITFunction

    from img_deploy.benchmarks.on_gpu import network

    launched = set()
    monkeypatch.setattr(JITFunction, "run", lambda self, *_, **__: launched.add(self.fn.__module__.split(".", 2)[2]))
    monkeypatch.setattr(network, "FULL", network.TINY)
    monkeypatch.setattr(prepare, "SHAPES", [((4, 2), 4)])
    with prepare.compiling_for_a_gpu():
        prepare._run_everything("fp32", lambda _text: None)
    assert {name.split(".")[0] for name in launched} == set(OP_NAMES)
    assert "bigru.backward" in launched  # what training launches besides
