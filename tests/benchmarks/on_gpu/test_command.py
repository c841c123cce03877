"""The GPU benchmark's command: what it refuses, what a dry run on a CPU takes, and what it needs."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from img_deploy.benchmarks import gpu
from img_deploy.benchmarks.on_gpu.record import Results
from img_deploy.benchmarks.on_gpu.steps import cases, cases_on_cpu
from img_deploy.kernels.dispatch import OP_NAMES

ABSENT = (
    *("onnx", "onnxscript", "onnxruntime", "safetensors", "nltk", "typer", "rich", "matplotlib", "pydantic"),
    *("lightning", "tensorboard", "torchvision", "tensorrt", "psutil", "yaml"),
)
HOOK = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ABSENT!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
"""Makes every process of this environment one where those packages are not installed."""


def figures(value):
    """Every summary of times anywhere in a result."""
    if isinstance(value, dict):
        yield from ([value] if "p50" in value else [])
        for one in value.values():
            yield from figures(one)
    elif isinstance(value, list):
        for one in value:
            yield from figures(one)


def test_without_a_gpu_it_says_so_and_writes_nothing(monkeypatch, capsys, tmp_path):
    """Times of something else would stand where a GPU's belong, or a traceback would."""
    monkeypatch.setattr(gpu, "why_no_gpu", lambda: "no NVIDIA GPU")
    assert gpu.main(["--out", str(tmp_path / "results")]) == 2
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"{gpu.COMMAND}: no NVIDIA GPU on this machine; give --cpu to run what a CPU can, without figures"
    ]
    assert not said.out
    assert not (tmp_path / "results").exists()


def test_what_the_goals_speak_of_comes_first():
    """Where time runs out, the goals would be missing, and the tables of everything else be there."""
    steps = [step.name for part in gpu.PARTS.values() for step in part]
    assert steps[:4] == ["checks", "accuracy", "network", "served"]
    assert {(case["op"], case["precision"]) for case in cases("checks")} == {
        (op, precision) for op in OP_NAMES for precision in ("fp32", "fp16", "bf16")
    }
    assert cases("network")[0] == {"version": "ours", "precision": "fp16", "batch": 1, "clips": 128}
    assert all(cases(step) and cases_on_cpu(step) for step in steps)


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_dry_run_of_both_parts_needs_nothing_but_torch_triton_and_numpy(tmp_path):
    """The first run on a GPU would end in an error that a CPU could have shown, or on a machine that has no more than
    those packages; or a CPU's time would stand as a GPU's."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    command = [sys.executable, "-m", "img_deploy.benchmarks.gpu", "--cpu", "--out", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    probe = subprocess.run([sys.executable, "-c", "import rich"], env=environment, capture_output=True, check=False)
    assert probe.returncode, "the hook blocks nothing"
    for part, steps in gpu.PARTS.items():
        results = Results(tmp_path / f"results/gpu_{part.lower()}.jsonl")
        entries = results.entries()
        assert {entry.step for entry in entries} == {step.name for step in steps}
        assert [entry for entry in entries if entry.outcome != "done"] == []
        assert list(figures([json.loads(line) for line in results.path.read_text().splitlines()])) == []
        assert results.seconds() is not None
    page = (tmp_path / "results/gpu.md").read_text()
    assert "**Not yet run on a GPU.**" in page
    assert page.count("| not measured |") == 5
