"""The real TensorRT for RTX: its parser and builder on every graph, which need no GPU."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from img_deploy import hardware
from img_deploy.errors import BackendError, InputError
from img_deploy.export import engines
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.engines import add_engines, targets_for
from img_deploy.export.inspection import inspect_path
from img_deploy.export.tensorrt_graph import tensorrt_graph
from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.backends.buckets import shape_of
from img_deploy.runtime.backends.choose import survey
from img_deploy.runtime.backends.tensorrt import backend as trt_backend
from img_deploy.runtime.backends.tensorrt import rtx
from img_deploy.runtime.backends.tensorrt.edition import FULL, RTX
from img_deploy.runtime.backends.tensorrt.records import TrtMachine, engine_files, misfits
from img_deploy.runtime.bundle import Bundle, write_manifest

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed (make rtx)")

OPTIONS = EngineOptions(max_batch=4, optimization_level=0)
QUICK = ("video_encoder", "query_encoder")
"""The grounders' engines take five times as long to build."""
NO_GPU = pytest.mark.skipif(hardware.cuda_devices() > 0, reason="a GPU is here, which engines would be tried on")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A bundle with fp32 engines of every graph for one generation of cards and of the quick ones for another, the
    reports of their builds, and what was told."""
    folder, told = tmp_path_factory.mktemp("rtx") / "deploy", []
    shutil.copytree(plain, folder)
    reports = add_engines(folder, options=OPTIONS, tell=told.append, edition=RTX, gpus=("sm89",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "graph_specs", lambda config: {name: graph_specs(config)[name] for name in QUICK})
        more = add_engines(folder, options=OPTIONS, tell=told.append, edition=RTX, gpus=("sm89", "sm120"))
    reports += [report for report in more if report.built]
    return SimpleNamespace(folder=folder, reports=reports, told=told)


@NO_GPU
def test_what_was_asked_for_is_built_for_every_gpu(built: SimpleNamespace) -> None:
    """A user of one generation would find engines of the other alone, or an engine nobody recorded."""
    bundle = Bundle.open(built.folder)
    bundle.check_all()
    for graph in GRAPH_NAMES:
        found = engine_files(bundle, graph, edition=RTX)
        assert {engine.record.where for engine in found} == ({"sm89", "sm120"} if graph in QUICK else {"sm89"})
        assert engine_files(bundle, graph, edition=FULL) == []
        for engine in found:
            record = engine.record
            assert (record.edition, record.tensorrt, record.hardware) == (RTX.name, trt.__version__, "same_capability")
            assert not record.verified
            assert bundle.file(engine.plan).read_bytes()[1:4] == b"trt"
            assert record.profiles[0]["batch"] == (1, 1, 1)
            assert record.profiles[1]["batch"] == (2, 4, 4)
    assert any("100%" in line or "80%" in line for line in built.told)
    assert "query_encoder (fp32, sm120): building" in built.told


@NO_GPU
def test_engines_take_and_give_what_the_graphs_declare(built: SimpleNamespace) -> None:
    """An input that the parser dropped, renamed or cast would be fed as something else on the card."""
    bundle = Bundle.open(built.folder)
    for graph, spec in graph_specs(bundle.manifest.model).items():
        record = engine_files(bundle, graph)[0].record
        kinds = {"float": "float32"}
        assert record.inputs == {each.name: kinds.get(each.dtype, each.dtype) for each in spec.inputs}
        assert record.outputs == {each.name: kinds.get(each.dtype, each.dtype) for each in spec.outputs}


@NO_GPU
def test_layers_and_scratch_memory_are_told(built: SimpleNamespace) -> None:
    """Nobody could see what the builder made of a graph, or how much of the card an engine takes."""
    for report in built.reports:
        assert len(report.record.layers) > 50
        assert all(re.search(r" \(\w+\)$", layer) for layer in report.record.layers)
        assert any("(gemm)" in layer for layer in report.record.layers)
        assert 1e5 < report.scratch_bytes < 1e8
        assert report.bytes == report.path.stat().st_size


@NO_GPU
def test_it_says_what_is_in_the_bundle(built: SimpleNamespace) -> None:
    """`inspect` would not tell which cards a bundle is for."""
    found = inspect_path(built.folder)
    table = found.tables["engines"]
    assert found.sections["bundle"]["engines"] == len(table["graph"]) == 6
    assert set(table["gpu"]) == {"sm89", "sm120"}
    assert set(table["state"]) == {"not run yet"}


@NO_GPU
def test_what_is_there_is_not_built_again(built: SimpleNamespace) -> None:
    """A minute per graph would go by for engines that the bundle has."""
    before = files(built.folder)
    again = add_engines(built.folder, options=OPTIONS, edition=RTX, gpus=("sm89",))
    assert not any(report.built for report in again)
    assert {name for name, content in files(built.folder).items() if before.get(name) != content} <= {"manifest.json"}


@NO_GPU
def test_an_engine_for_another_card_version_or_graph_is_refused(
    built: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plan of another generation or version crashes the process, or answers wrongly, when it is loaded."""
    bundle = Bundle.open(built.folder)
    record = next(each.record for each in engine_files(bundle, "grounder") if each.record.where == "sm89")
    ada = TrtMachine(trt.__version__, "NVIDIA GeForce RTX 4090", "8.9")
    assert misfits(record, ada, record.onnx_sha256) == []
    for change, said in (
        ({"capability": "8.6"}, "built for compute capability 8.9, NVIDIA GeForce RTX 4090 has 8.6"),
        ({"tensorrt": "1.6.1.120"}, f"built with TensorRT for RTX {trt.__version__}, here is 1.6.1.120"),
        ({"platform": "win32-amd64"}, "this is win32-amd64"),
    ):
        (why,) = misfits(record, replace(ada, **change), record.onnx_sha256)
        assert said in why
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 1)
    monkeypatch.setattr(trt_backend, "this_machine", lambda _: replace(ada, capability="8.6"))
    assert "--targets onnx,tensorrt-rtx --gpu smNN" in str(rtx.unavailable("cuda", bundle))
    monkeypatch.setattr(trt_backend, "this_machine", lambda _: replace(ada, gpu="NVIDIA H100", capability="9.0"))
    assert rtx.unavailable("cuda", None) == (
        "TensorRT for RTX is for compute capability 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; NVIDIA H100 has 9.0"
    )
    monkeypatch.setattr(trt_backend, "this_machine", lambda _: ada)
    assert rtx.unavailable("cuda", bundle) is None
    with pytest.raises(BackendError, match=r"cannot load it \(.*\); build the engine again"):
        rtx.open_backend("cuda", bundle, None)  # the library itself finds that there is no card
    changed = Path(shutil.copytree(built.folder, tmp_path / "changed"))
    plan = changed / engine_files(bundle, "video_encoder")[0].plan
    plan.write_bytes(plan.read_bytes()[:-1] + b"?")
    other = next(each.plan for each in engine_files(bundle, "video_encoder") if each.record.where == "sm89")
    (changed / other).write_bytes(b"changed")
    with pytest.raises(InputError, match="does not match the manifest's sha256"):
        rtx.open_backend("cuda", Bundle.open(changed), None)


@NO_GPU
def test_doctor_and_auto_know_it(built: SimpleNamespace) -> None:
    """A user with the right card would never hear of it."""
    out = {entry.label: why for entry, why in survey(Bundle.open(built.folder))}
    assert out["tensorrt-rtx:cuda"] == "no NVIDIA GPU"
    assert hardware.package_versions()["tensorrt-rtx"] == trt.__version__


@pytest.mark.parametrize("exported_in", ["tokens_in_fp16", "words_in_bf16"])
def test_every_graph_is_built_in_half_precisions(
    exported_in: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Types that the library refuses would be found out on the user's machine, after minutes; or GRU layers would run
    as a loop for each of their stacks."""
    folder = Path(shutil.copytree(request.getfixturevalue(exported_in), tmp_path / "deploy"))
    precision = Bundle.open(folder).manifest.precision
    options = EngineOptions(max_batch=1, optimization_level=0)
    reports = add_engines(folder, precision, options, edition=RTX, gpus=("sm86",))
    half = ELEMENT_TYPES[precision].torch
    for report in reports:
        spec = graph_specs(Bundle.open(folder).manifest.model)[report.record.graph]
        wanted = {each.name: half if each.dtype == "float" else each.dtype for each in (*spec.inputs, *spec.outputs)}
        assert {**report.record.inputs, **report.record.outputs} == wanted
    jumps = {report.record.graph: "".join(report.record.layers).count("(cjmp)") for report in reports}
    assert jumps == {"video_encoder": 0, "query_encoder": 0, "grounder": 8, "visual_grounder": 0}  # 2 for each layer


def test_the_graph_that_the_parser_is_given_answers_as_the_bundles(
    tokens_in_fp16: Path, session_of: Callable[[Path | bytes], Callable]
) -> None:
    """What is verified is the bundle's graph; an engine is built from another form of it, and no card is here."""
    bundle = Bundle.open(tokens_in_fp16)
    limits = {"batch": 4, **bundle.manifest.limits}
    rng, sizes = np.random.default_rng(0), {"batch": 3, "clips": 13, "words": 5}
    feeds = {}
    for tensor in graph_specs(bundle.manifest.model)["grounder"].inputs:
        shape = shape_of(tensor, sizes)
        lengths = np.array([[shape[1]], [max(1, shape[1] // 3)], [1]])
        ragged = np.arange(shape[1])[None] < lengths
        feeds[tensor.name] = ragged if tensor.dtype == "bool" else rng.standard_normal(shape).astype(np.float16)
    path = bundle.graph("grounder")
    wanted = session_of(path)(feeds)
    found = session_of(tensorrt_graph(path, limits, plugins=False).model)(feeds)
    for name, values in wanted.items():
        real = feeds["clip_mask"] if values.ndim > 1 else slice(None)
        np.testing.assert_allclose(found[name][real], values[real], atol=1e-2, err_msg=name)


@pytest.mark.parametrize(
    ("edition", "gpus", "said"),
    [
        (RTX, ("sm90",), "gpu: got 'sm90', TensorRT for RTX .* builds for sm75, sm80, sm86, sm89, sm120, sm121"),
        (RTX, ("4090",), "gpu: got '4090'"),
        pytest.param(RTX, (), "gpu: got none, and none is here to build for .*give --gpu, one of sm75", marks=NO_GPU),
    ],
)
def test_gpus_that_it_does_not_build_for(edition: Any, gpus: tuple[str, ...], said: str) -> None:
    """The refusal would come after the export, or as an error number of the library."""
    with pytest.raises(InputError, match=said):
        targets_for(edition, gpus)


def test_a_graph_that_the_parser_refuses_is_one_line(plain: Path, tmp_path: Path) -> None:
    """The user would get a bundle with half of its engines, or a page of the library's log."""
    folder = Path(shutil.copytree(plain, tmp_path / "deploy"))
    path = Bundle.open(folder).graph("video_encoder")
    model = onnx.load(path)
    model.graph.node[3].op_type = "Unheard"
    path.write_bytes(model.SerializeToString())
    write_manifest(folder, Bundle.open(folder).manifest)
    before = files(folder)
    with pytest.raises(
        BackendError, match=r"no engines added: TensorRT for RTX's parser refuses video_encoder"
    ) as said:
        add_engines(folder, options=OPTIONS, edition=RTX, gpus=("sm89",))
    assert "\n" not in str(said.value)
    assert "Unheard" in str(said.value)
    assert files(folder) == before
    assert (tmp_path / "deploy.video_encoder.fp32.log").is_file()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_the_bundle_whole(how: signal.Signals, plain: Path, tmp_path: Path) -> None:
    """Ctrl-C or a kill would leave engines that nobody finished, or no bundle."""
    folder = Path(shutil.copytree(plain, tmp_path / "deploy"))
    before = files(folder)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from img_deploy.export.engine_options import EngineOptions\n"
        "from img_deploy.export.engines import add_engines\n"
        "from img_deploy.runtime.backends.tensorrt.edition import RTX\n"
        f"add_engines(Path({str(folder)!r}), options=EngineOptions(max_batch=4), edition=RTX, gpus=('sm89',),\n"
        "            tell=lambda step: print(step, flush=True))\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert program.stdout is not None
    for line in program.stdout:
        if "query_encoder" in line and "%" in line:
            break
    began = time.monotonic()
    program.send_signal(how)
    program.communicate()
    assert program.returncode != 0
    assert time.monotonic() - began < 120
    assert files(folder) == before
    Bundle.open(folder).check_all()
    assert bool(list(tmp_path.glob("deploy.query_encoder.fp32.log"))) is (how == signal.SIGINT)
