"""`img-deploy doctor` in environments of the test's own making."""

import importlib.metadata
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest

from img_deploy import hardware
from img_deploy.cli.main import main
from img_deploy.runtime import machine_report
from img_deploy.runtime.backends import choose

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


@pytest.fixture
def doctor(capsys, monkeypatch, tmp_path):
    """Runs the command in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["doctor", *arguments])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture
def environment(monkeypatch):
    """Function: pretend that exactly these distributions are installed, with these providers and GPUs."""

    def fake(distributions, providers=(CPU,), gpus=(), usable=None):
        def version(name):
            if name not in distributions:
                raise importlib.metadata.PackageNotFoundError(name)
            return distributions[name]

        monkeypatch.setattr(importlib.metadata, "version", version)
        module = SimpleNamespace(get_available_providers=lambda: list(providers), __version__="9.9")
        module.__spec__ = ModuleSpec("onnxruntime", None)
        monkeypatch.setitem(sys.modules, "onnxruntime", module)
        monkeypatch.setattr(hardware, "gpus", lambda: tuple(gpus))
        monkeypatch.setattr(machine_report, "cuda_devices", lambda: len(gpus) if usable is None else usable)

    return fake


def test_both_runtimes_are_a_warning_with_the_command_that_repairs_it(doctor, environment):
    """The CPU and the GPU runtime overwrite each other's files: whichever came last wins, and nobody is told."""
    environment({"torch": "2.13.0+cpu", "onnxruntime": "1.32.0", "onnxruntime-gpu": "1.30.0"})
    code, out, _ = doctor()
    warnings = [line for line in out.splitlines() if line.startswith("warning:")]
    assert code == 0
    assert len(warnings) == 1
    assert "onnxruntime and onnxruntime-gpu are both installed" in warnings[0]
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'img-deploy[cpu]'" in warnings[0]


def test_with_a_gpu_the_repair_keeps_the_gpu_runtime(doctor, environment):
    """The advice would throw away the GPU's speed."""
    gpu = hardware.Gpu("NVIDIA H200", "9.0", 139.0, "580.159.03")
    environment({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.30.0"}, (CUDA, CPU), [gpu])
    _, out, _ = doctor()
    assert "pip install 'img-deploy[gpu]'" in out
    assert "NVIDIA H200" in out
    assert "9.0" in out
    assert "580.159.03" in out


@pytest.mark.parametrize("installed", [{"onnxruntime": "1.32.0"}, {"onnxruntime-gpu": "1.30.0"}, {}])
def test_one_runtime_or_none_is_no_warning(doctor, environment, installed):
    """A sound machine would be told to reinstall."""
    environment(installed)
    code, out, _ = doctor()
    assert code == 0
    assert "warning" not in out


def test_a_gpu_that_onnxruntime_and_torch_cannot_use_is_a_warning(doctor, environment):
    """A GPU machine would answer on the CPU, and nothing would say why it is slow."""
    gpu = hardware.Gpu("NVIDIA L4", "8.9", 24.0, None)
    environment({"torch": "2.13.0+cpu", "onnxruntime": "1.32.0"}, (CPU,), [gpu])
    _, out, _ = doctor()
    assert "onnxruntime 1.32.0 runs on the CPU alone" in out
    assert "torch 2.13.0+cpu is built for the CPU" in out


def test_a_gpu_hidden_from_the_process_is_named_with_its_cause(doctor, environment, monkeypatch):
    """The user would look for a driver problem where a variable hides the GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    environment({"onnxruntime-gpu": "1.30.0"}, (CUDA, CPU), [hardware.Gpu("NVIDIA L4", None, None, None)], usable=0)
    _, out, _ = doctor()
    assert "may not use it: CUDA_VISIBLE_DEVICES is ''" in out


def test_json_holds_every_fact(doctor, environment):
    """Programs that read it would have to parse the table."""
    environment({"torch": "2.13.0+cpu", "onnxruntime": "1.32.0", "tensorrt-cu13": "11.4.0"})
    code, out, _ = doctor("--format", "json")
    report = json.loads(out)
    assert code == 0
    assert report["packages"]["tensorrt"] == "11.4.0"
    assert report["packages"]["onnxruntime-gpu"] is None
    assert report["providers"] == [CPU]
    assert [fact["chosen"] for fact in report["backends"]].count(True) == 1
    assert report["cpus"] >= 1


def test_exactly_one_backend_is_chosen_and_every_other_has_a_reason(monkeypatch):
    """A user could not tell why the backend they wanted is not used."""
    entries = [SimpleNamespace(label=label) for label in ("a:cuda", "b:cpu", "c:cpu", "d:cpu")]
    reasons = ["no NVIDIA GPU", None, None, "not installed"]
    monkeypatch.setattr(machine_report, "survey", lambda _bundle: list(zip(entries, reasons, strict=True)))
    facts = machine_report.backend_facts()
    assert [(fact.label, fact.works, fact.chosen) for fact in facts] == [
        ("a:cuda", False, False),
        ("b:cpu", True, True),
        ("c:cpu", True, False),
        ("d:cpu", False, False),
    ]
    assert facts[0].reason == "no NVIDIA GPU"
    assert facts[2].reason == "works; auto prefers b:cpu"
    assert facts[3].reason == "not installed"


def test_a_backend_that_does_not_start_on_the_bundle_is_not_the_one_chosen(monkeypatch):
    """`doctor` would name a backend that infer then cannot open."""
    entries = [SimpleNamespace(label=label) for label in ("a:cpu", "b:cpu")]
    monkeypatch.setattr(machine_report, "survey", lambda _bundle: [(entry, None) for entry in entries])

    def open_one(_bundle, name):
        if name == "a:cpu":
            raise choose.BackendError("a does not start")
        return SimpleNamespace(
            backend=SimpleNamespace(close=lambda: None, notes=lambda: {"grounder: no CUDA graph": "a loop"})
        )

    monkeypatch.setattr(machine_report, "choose", open_one)
    first, second = machine_report.backend_facts(SimpleNamespace(folder="deploy"))
    assert (first.works, first.chosen, first.reason) == (False, False, "a does not start")
    assert second.chosen
    assert second.reason.endswith("; grounder: no CUDA graph (a loop)")


def test_a_bundle_that_was_asked_for_must_be_one(doctor):
    """A typo in --bundle would be answered with a report about bundles in general."""
    code, out, err = doctor("--bundle", "nowhere")
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "nowhere: got nothing, expected a bundle folder" in err


def test_a_broken_default_bundle_is_a_warning(doctor, tmp_path):
    """`doctor` would fail exactly when there is something to find."""
    (tmp_path / "deploy").mkdir()
    code, out, _ = doctor()
    assert code == 0
    assert "warning: deploy: has no manifest.json" in out


def test_an_unknown_format_is_one_line(doctor):
    """A typo would print a usage page or a traceback."""
    code, _, err = doctor("--format", "xml")
    assert code == 2
    assert err.count("\n") == 1


def test_nvidia_smi_is_read_where_torch_cannot_see_the_gpu(monkeypatch):
    """A machine with a CPU torch would be said to have no GPU; what the driver does not tell must not break it."""
    answer = "NVIDIA H200, 9.0, 143771, 580.159.03\nTesla, X, [N/A], [N/A], 1\n"
    monkeypatch.setattr(hardware.shutil, "which", lambda _name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", lambda *_args, **_kwargs: SimpleNamespace(stdout=answer))
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 0)
    assert hardware.gpus() == (hardware.Gpu("NVIDIA H200", "9.0", 140.4, "580.159.03"),)


def test_nvidia_smi_that_fails_is_no_gpu(monkeypatch):
    """A leftover nvidia-smi without a driver would end `doctor` with a traceback."""

    def fail(*_args, **_kwargs):
        raise hardware.subprocess.CalledProcessError(9, "nvidia-smi")

    monkeypatch.setattr(hardware.shutil, "which", lambda _name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", fail)
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 0)
    assert hardware.gpus() == ()


@pytest.mark.skipif(hardware.cuda_devices() > 0, reason="asks torch about the GPU that is here")
def test_torch_is_not_imported_where_there_is_no_gpu():
    """`doctor` would take seconds to say that there is no GPU."""
    code = "import sys, img_deploy.runtime.machine_report as m; m.machine_report(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
