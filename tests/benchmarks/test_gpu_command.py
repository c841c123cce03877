"""The GPU benchmark's command: what it refuses, what it runs on a CPU, and what it needs."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from img_deploy.benchmarks import gpu

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

BLOCKED = (
    *("onnx", "onnxscript", "onnxruntime", "safetensors", "nltk", "typer", "rich", "matplotlib", "pydantic"),
    *("lightning", "tensorboard", "torchvision"),
)
HOOK = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {BLOCKED!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
"""Makes every process of this environment one where those packages are not installed."""


def figures(value):
    """Every summary of times, and every rate, anywhere in a result."""
    if isinstance(value, dict):
        if "p50" in value:
            yield value
        for name, one in value.items():
            if name == "per_second" and one is not None:
                yield one
            yield from figures(one)
    elif isinstance(value, list):
        for one in value:
            yield from figures(one)


def test_without_a_gpu_it_says_so_and_writes_nothing(monkeypatch, capsys, tmp_path):
    """Times of something else would stand where a GPU's belong, or a traceback would."""
    monkeypatch.setattr(gpu, "cuda_devices", lambda: 0)
    assert gpu.main(["--out", str(tmp_path / "results")]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"{gpu.COMMAND}: no NVIDIA GPU on this machine; give --cpu to run what a CPU can, without figures"
    ]
    assert not said.out
    assert not (tmp_path / "results").exists()


def test_a_step_is_not_run_without_its_check(capsys, tmp_path):
    """A kernel that nobody checked would be timed."""
    assert gpu.main(["--cpu", "--out", str(tmp_path), "--only", "ceilings", "kernels"]) == 2
    assert "need checks beside them" in capsys.readouterr().err


@needs_triton
def test_the_cpu_path_needs_nothing_but_torch_triton_and_numpy(tmp_path):
    """The command would end on a machine that has no more than those, or write a figure that no GPU gave."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    command = [sys.executable, "-m", "img_deploy.benchmarks.gpu", "--cpu", "--out", str(tmp_path / "results")]
    command += ["--ops", "global_fusion", "best_spans", "--only", "ceilings", "checks", "kernels", "compiled_kernels"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    probe = subprocess.run([sys.executable, "-c", "import rich"], env=environment, capture_output=True, check=False)
    assert probe.returncode, "the hook blocks nothing"
    document = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert document["complete"]
    outcomes = {entry["outcome"] for entries in document["steps"].values() for entry in entries}
    assert outcomes == {"done"}
    assert {(entry["op"], entry["dtype"]) for entry in document["steps"]["checks"]} == {
        (op, dtype) for op in ("global_fusion", "best_spans") for dtype in ("fp32", "fp16", "bf16")
    }
    assert list(figures(document)) == []
    page = (tmp_path / "results" / "gpu.md").read_text()
    assert page.count("not yet run on a GPU") > 20
    assert "passed" in page
    assert not list((tmp_path / "results").glob("*.partial"))
