"""Engines of another machine: refused with the reason, and built anew when asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from img_deploy.cli.main import main
from img_deploy.errors import BackendError
from img_deploy.export import engine_rebuild
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.engine_rebuild import options_of, rebuild_engines
from img_deploy.runtime.backends.tensorrt import backend as trt_backend
from img_deploy.runtime.backends.tensorrt.records import TrtMachine, engine_files
from img_deploy.runtime.bundle import Bundle

ELSEWHERE = TrtMachine("11.4.0.106", "NVIDIA L4", "8.9")


@pytest.fixture
def elsewhere(with_engines: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The bundle has come to a machine with another GPU than its engines were built on."""
    assert with_engines.is_dir()
    for module in (
        "img_deploy.export.engines",
        "img_deploy.runtime.backends.tensorrt.backend",
        "img_deploy.export.engine_rebuild",
    ):
        monkeypatch.setattr(f"{module}.this_machine", lambda _: ELSEWHERE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("elsewhere")
def test_engines_are_built_for_the_machine_at_hand(with_engines: Path) -> None:
    """A bundle would only ever run where it was made."""
    with pytest.raises(BackendError, match=r"built for compute capability 9.0, NVIDIA L4 has 8.9.*--rebuild"):
        trt_backend.open_backend("cuda", Bundle.open(with_engines), None)
    told: list[str] = []
    reports = rebuild_engines(with_engines, told.append)
    assert {report.record.gpu for report in reports} == {"NVIDIA L4"}
    assert told[0] == "video_encoder: built for compute capability 9.0, NVIDIA L4 has 8.9"
    trt_backend.open_backend("cuda", Bundle.open(with_engines), None).close()
    found = engine_files(Bundle.open(with_engines), "grounder")
    assert [engine.record.gpu for engine in found] == ["NVIDIA L4", "NVIDIA H200"]
    assert rebuild_engines(with_engines, told.append) == []


@pytest.mark.usefixtures("elsewhere")
def test_they_are_built_the_way_the_others_were(with_engines: Path) -> None:
    """An engine for small batches without plugins would come back as another one."""
    (old,) = engine_files(Bundle.open(with_engines), "grounder")
    rebuild_engines(with_engines, lambda _: None)
    new = engine_files(Bundle.open(with_engines), "grounder")[0]
    assert replace(new.record, gpu=old.record.gpu, capability=old.record.capability).key == old.record.key
    asked = EngineOptions(max_batch=16, plugins=False)
    assert replace(options_of(old.record), timing_cache=asked.timing_cache) == asked


@pytest.mark.usefixtures("elsewhere")
def test_a_bundle_without_engines_gets_some(bundle: Path) -> None:
    """`--rebuild` on a bundle that was exported without TensorRT would fail, or change nothing."""
    reports = rebuild_engines(bundle, lambda _: None)
    assert len(reports) == 4
    assert not any(report.record.plugins for report in reports)  # its graphs hold no nodes for them


def test_the_option_says_what_is_missing(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback where TensorRT is not installed."""
    with pytest.raises(SystemExit) as caught:
        main(["infer", str(bundle), "-q", "a dog", "--bundle", str(bundle), "--rebuild"])
    assert caught.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "tensorrt" in line]
    assert "pip install 'img-deploy[gpu]'" in line


def test_the_option_builds_before_it_answers(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The backend would be chosen before there are engines to choose it for."""
    monkeypatch.setattr(engine_rebuild, "rebuild_engines", lambda folder, _: [folder])
    with pytest.raises(SystemExit):
        main(["infer", str(bundle / "nothing"), "-q", "a dog", "--bundle", str(bundle), "--rebuild"])
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == f"{bundle}: 1 engines built"


@pytest.mark.parametrize(("targets", "asked"), [("onnx,tensorrt", True), ("onnx", False)])
def test_the_target_tensorrt_adds_engines_of_our_kernels(
    targets: str, asked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--targets onnx,tensorrt` would export graphs that no kernel fits into, or build no engine."""
    from img_deploy.export import bundle_from_checkpoint as exporting
    from img_deploy.export.bundle_from_checkpoint import ExportOptions
    from img_deploy.model.checkpoint import Checkpoint

    seen: list[ExportOptions] = []
    monkeypatch.setattr(Checkpoint, "load", lambda _: None)
    monkeypatch.setattr(exporting, "bundle_from_checkpoint", lambda *given: seen.append(given[2]))
    with pytest.raises(SystemExit) as caught:
        main(["export", "--ckpt", "best.pt", "--out", str(tmp_path / "deploy"), "--targets", targets])
    assert caught.value.code == 0
    assert seen[0].plugins is asked
    assert ("tensorrt" in seen[0].targets) is asked


def test_engines_alone_are_no_target(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines are made from the ONNX graphs, which a bundle cannot do without."""
    from img_deploy.model.checkpoint import Checkpoint

    monkeypatch.setattr(Checkpoint, "load", lambda _: None)
    with pytest.raises(SystemExit) as caught:
        main(["export", "--ckpt", "best.pt", "--targets", "tensorrt"])
    assert caught.value.code == 2
    assert "give onnx,tensorrt" in capsys.readouterr().err


def test_how_engines_are_built_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the builder would be out of reach of the command line, or be dropped on their way."""
    from img_deploy.export import bundle_from_checkpoint as exporting
    from img_deploy.model.checkpoint import Checkpoint

    seen: list[exporting.ExportOptions] = []
    monkeypatch.setattr(Checkpoint, "load", lambda _: None)
    monkeypatch.setattr(exporting, "bundle_from_checkpoint", lambda *given: seen.append(given[2]))
    options = ("max_batch=16", "hardware=ampere_plus", "version-compatible=on", "workspace_mib=512", "timing_cache=a/b")
    with pytest.raises(SystemExit) as caught:
        main(["export", "--ckpt", "best.pt", "--targets", "onnx,tensorrt", *(f"--engine={each}" for each in options)])
    assert caught.value.code == 0
    assert seen[0].engine == EngineOptions(
        max_batch=16, hardware="ampere_plus", version_compatible=True, workspace_mib=512, timing_cache=Path("a/b")
    )


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("max_batch", "expected NAME=VALUE with one of max_batch, workspace_mib"),
        ("plugins=off", "expected NAME=VALUE with one of max_batch"),
        ("max_batch=many", "engine option max_batch: Input should be a valid integer"),
        ("max_batch=0", "engine option max_batch: Input should be greater than or equal to 1 (got '0')"),
        ("version_compatible=maybe", "version_compatible: Input should be a valid boolean"),
        ("hardware=h100", "hardware: Input should be 'same_gpu', 'same_capability' or 'ampere_plus'"),
    ],
)
def test_wrong_engine_options_are_one_line(option: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They would be found out after the export, minutes later, or not at all."""
    with pytest.raises(SystemExit) as caught:
        main(["export", "--ckpt", "best.pt", "--engine", option])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
