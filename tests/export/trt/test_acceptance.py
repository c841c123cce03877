"""The acceptance script: one line without TensorRT; results, or the failure, with it."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from img_deploy import hardware
from img_deploy.benchmarks import trt_acceptance

QUICK = [
    "--precision",
    "fp32",
    "--plugins",
    "off",
    "--batch-size",
    "1",
    "--clips",
    "8",
    "--starts",
    "0",
    "--max-batch",
    "4",
]


def test_a_machine_without_tensorrt_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback, or minutes of exporting before the bad news."""
    assert trt_acceptance.main([]) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["TensorRT acceptance cannot run on this machine: no NVIDIA GPU"]
    assert printed.out == ""


@pytest.fixture
def machine(trt: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with the stand-in for TensorRT."""
    assert trt.__version__ == "11.4.0.106"
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("machine")
def test_results_tell_builds_agreement_and_latency(bundle: Path, tmp_path: Path) -> None:
    """A result without the verification, or without what it was measured on, is worth nothing."""
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    arguments = ["--bundle", str(bundle), "--out", str(tmp_path / "out"), *QUICK, "--seconds", "0.2"]
    arguments += ["--backends", "tensorrt", "torch:cpu"]
    assert trt_acceptance.main(arguments) == 0
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    (result,) = json.loads((tmp_path / "out" / "trt_acceptance.json").read_text())["results"]
    assert result["failure"] is None
    assert [engine["graph"] for engine in result["engines"]] == [
        "video_encoder",
        "query_encoder",
        "grounder",
        "visual_grounder",
    ]
    assert {row["backend"] for row in result["verification"]} >= {"tensorrt", "onnxruntime"}
    cases = {case["backend"] for case in result["profile"]["cases"]}
    assert cases == {"tensorrt:cuda", "torch:cpu"}
    text = (tmp_path / "out" / "trt_acceptance.md").read_text()
    assert "| tensorrt | grounder |" in text
    assert "Engines for NVIDIA H200 by TensorRT 11.4.0.106." in text
    assert "passed" in text


@pytest.mark.usefixtures("machine")
def test_a_failure_is_in_the_results(bundle: Path, tmp_path: Path, trt: ModuleType) -> None:
    """Whoever reads the results would not know that a precision failed, or why."""
    trt.Builder.fails = True
    arguments = ["--bundle", str(bundle), "--out", str(tmp_path / "out"), *QUICK]
    assert trt_acceptance.main(arguments) == 1
    (result,) = json.loads((tmp_path / "out" / "trt_acceptance.json").read_text())["results"]
    assert "OutOfMemory" in result["failure"]
    assert "**Failed:**" in (tmp_path / "out" / "trt_acceptance.md").read_text()


@pytest.mark.usefixtures("machine")
def test_a_precision_that_the_bundle_lacks_is_bad_input(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would be found after the engines of the others were built."""
    assert trt_acceptance.main(["--bundle", str(bundle), "--precision", "fp32", "fp16"]) == 2
    assert "holds no fp16 graphs, only fp32" in capsys.readouterr().err
