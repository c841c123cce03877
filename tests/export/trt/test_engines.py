"""Building engines: what TensorRT is told, what the bundle holds afterwards, and what a failed build leaves."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from img_deploy.errors import BackendError, BundleError, InputError, VerificationError
from img_deploy.export.engine_options import EngineOptions
from img_deploy.export.engines import add_engines
from img_deploy.export.report import REPORT
from img_deploy.model.graphs import GRAPH_NAMES
from img_deploy.runtime.backends.tensorrt.records import EngineRecord, engine_files
from img_deploy.runtime.bundle import Bundle

pytestmark = pytest.mark.usefixtures("trt")


@pytest.fixture
def unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are about building alone: trying the engines takes seconds."""
    monkeypatch.setattr("img_deploy.export.engines.verified", lambda *_: [])


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_engines_are_built_tried_and_listed(trt: ModuleType, bundle: Path, options: EngineOptions) -> None:
    """An engine that nobody compared with the eager network would ship, or none would be found when it is asked for."""
    before, told = files(bundle), []
    reports = add_engines(bundle, options=options, tell=told.append)
    assert [report.record.graph for report in reports] == list(GRAPH_NAMES)
    opened = Bundle.open(bundle)
    opened.check_all()
    for graph in GRAPH_NAMES:
        (engine,) = engine_files(opened, graph)
        record = engine.record
        assert record.profiles[0]["batch"] == (1, 1, 1)
        assert record.profiles[1]["batch"] == (2, 16, 16)
        assert opened.file(engine.plan).stat().st_size > 0
        assert engine.plan == f"engines/fp32/{graph}.{record.key}.plan"
        assert (bundle / engine.plan).with_suffix(".log").is_file()
    added = files(bundle) - before
    assert {Path(name).suffix for name in added} == {".plan", ".json", ".log"}
    rows = [row for row in opened.manifest.verification["rows"] if row["backend"] == "tensorrt"]
    assert [row["graph"] for row in rows] == list(GRAPH_NAMES)
    assert all(row["passed"] and row["largest"] < 1e-4 for row in rows)
    assert "| tensorrt" in (bundle / REPORT).read_text()
    assert "grounder (fp32, NVIDIA H200): building" in told
    assert any("100%" in line for line in told)
    # Every batch size that was tried went through the profile that is made for it.
    ran = [(profile, next(iter(shapes.values()))[0]) for profile, shapes in trt.IExecutionContext.executed]
    assert {profile for profile, batch in ran if batch == 1} == {0}
    assert {profile for profile, batch in ran if batch > 1} == {1}


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize(("version", "flags"), [("10.16.1.11", (1 << 1) | (1 << 3)), ("11.4.0.106", 1 << 3)])
def test_networks_are_strongly_typed(
    version: str, flags: int, trt: ModuleType, bundle: Path, options: EngineOptions
) -> None:
    """TensorRT 10 chooses types of its own unless told otherwise; 11 has no other networks."""
    trt.__version__ = version
    reports = add_engines(bundle, options=options)
    assert all(json.loads(report.path.read_bytes())["flags"] == flags for report in reports)
    assert all(report.record.tensorrt == version for report in reports)


@pytest.mark.usefixtures("unverified")
def test_the_builder_is_told_everything(trt: ModuleType, bundle: Path, options: EngineOptions) -> None:
    """An option that does not reach TensorRT would be a promise in the record that nothing keeps."""
    asked = replace(
        options, workspace_mib=512, hardware="ampere_plus", version_compatible=True, optimization_level=5, max_batch=4
    )
    reports = add_engines(bundle, options=asked)
    for config in trt.Builder.configs:
        assert config._pools == {trt.MemoryPoolType.WORKSPACE: 512 << 20}
        assert config._flags == {trt.BuilderFlag.VERSION_COMPATIBLE}  # and no TF32
        assert config.hardware_compatibility_level is trt.HardwareCompatibilityLevel.AMPERE_PLUS
        assert config.builder_optimization_level == 5
        assert config.max_aux_streams == 0
        assert config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    (record,) = {report.record.hardware for report in reports}
    assert record == "ampere_plus"
    assert all(report.record.version_compatible for report in reports)
    assert all(report.record.profiles[1]["batch"] == (2, 4, 4) for report in reports)


@pytest.mark.usefixtures("unverified")
def test_what_is_there_already_is_not_built_again(with_engines: Path, options: EngineOptions) -> None:
    """Minutes would go by for an engine that the bundle has; or another build's engine would pass for this one's."""
    known = {graph: engine_files(Bundle.open(with_engines), graph)[0].record.key for graph in GRAPH_NAMES}
    assert not any(report.built for report in add_engines(with_engines, options=options))
    assert all(report.built for report in add_engines(with_engines, options=options, rebuild=True))
    other = add_engines(with_engines, options=replace(options, optimization_level=1))
    assert all(report.built for report in other)
    for graph in GRAPH_NAMES:  # newest first, and the older one is kept
        keys = [engine.record.key for engine in engine_files(Bundle.open(with_engines), graph)]
        assert len(keys) == 2
        assert keys[1] == known[graph]


@pytest.mark.usefixtures("unverified")
def test_the_timing_cache_goes_on_from_build_to_build(bundle: Path, options: EngineOptions) -> None:
    """Every build would time every kernel anew; or a cache of another GPU would stop all builds."""
    assert options.timing_cache is not None
    options.timing_cache.parent.mkdir()
    options.timing_cache.write_bytes(b"another gpu")
    add_engines(bundle, options=options)
    assert options.timing_cache.read_bytes() == b"timed;" * len(GRAPH_NAMES)


@pytest.mark.parametrize("how", ["fails", "refused", "no_gpu", "interrupted", "wrong_answers", "plan_refused"])
def test_a_failed_build_leaves_the_bundle_as_it_was(
    how: str, trt: ModuleType, bundle: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a set of engines would be listed, or the bundle could not answer any more."""
    before = {name: (bundle / name).read_bytes() for name in files(bundle)}
    expected: type[BaseException] = BackendError
    said = "could not build query_encoder"

    def at_second(original: Callable, changed: Callable) -> Callable:
        calls = iter(range(100))
        return lambda *args: (original if next(calls) == 0 else changed)(*args)

    if how == "fails":
        build = trt.Builder.build_serialized_network
        monkeypatch.setattr(trt.Builder, "build_serialized_network", at_second(build, lambda *_: None))
    elif how == "refused":
        said = "parser refuses query_encoder"
        monkeypatch.setattr(trt.OnnxParser, "parse", at_second(trt.OnnxParser.parse, lambda *_: False))
    elif how == "no_gpu":
        said = "does not start here"

        def no_gpu(*_: object) -> None:
            raise TypeError("pybind11::init(): factory function returned nullptr")

        monkeypatch.setattr(trt.Builder, "__init__", no_gpu)
    elif how == "interrupted":
        expected = KeyboardInterrupt
    elif how == "plan_refused":
        said = "cannot load the video_encoder"
        monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", lambda *_: None)
    else:
        expected, said = VerificationError, "do not agree"
        run = trt.IExecutionContext.execute_async_v3
        written = trt.IExecutionContext._array

        def off(self: object, name: str) -> object:
            array = written(self, name)
            if name == "start_logits":
                array += 1
            return array

        monkeypatch.setattr(
            trt.IExecutionContext,
            "execute_async_v3",
            lambda self, h: run(self, h) and any(off(self, name) is not None for name in self._engine._outputs),
        )

    def tell(step: str) -> None:
        if how == "interrupted" and step.endswith("%"):
            raise KeyboardInterrupt

    with pytest.raises(expected) as caught:
        add_engines(bundle, options=options, tell=tell)
    if how != "interrupted":
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "--backend onnxruntime" in str(caught.value)
    assert {name: (bundle / name).read_bytes() for name in files(bundle)} == before
    Bundle.open(bundle).check_all()
    logs = [path.name for path in bundle.parent.glob("deploy.*.log")]
    if how in ("fails", "refused", "plan_refused", "no_gpu"):
        assert len(logs) == 1
        assert str(bundle.with_name(logs[0])) in str(caught.value) or how == "no_gpu"


def test_a_tampered_bundle_is_not_blessed(bundle: Path, options: EngineOptions) -> None:
    """Writing the manifest anew would give a replaced weight file a hash that fits."""
    (bundle / "weights.safetensors").write_bytes(b"other weights")
    with pytest.raises(BundleError, match=r"weights.safetensors: its content does not match"):
        add_engines(bundle, options=options)


def test_without_tensorrt_the_message_says_what_to_do(
    trt: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without TensorRT, or with one too old, would get a traceback."""
    trt.__version__ = "10.14.1"
    with pytest.raises(BackendError, match=r"got version 10.14.1, expected 10.15 or newer"):
        add_engines(bundle)
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match=r"pip install 'img-deploy\[gpu\]'"):
        add_engines(bundle)


def test_options_out_of_range_are_named_together() -> None:
    """A user would mend one option after the other."""
    with pytest.raises(InputError) as caught:
        EngineOptions.of(max_batch=0, workspace_mib=0, hardware="any", optimization_level=9)
    assert all(word in str(caught.value) for word in ("max_batch", "workspace", "hardware", "optimization_level"))


def test_a_record_reads_as_written(with_engines: Path) -> None:
    """A key that changed by being written would make every engine look like another's."""
    (engine,) = engine_files(Bundle.open(with_engines), "grounder")
    path = (with_engines / engine.plan).with_suffix(".json")
    assert EngineRecord.read(path) == engine.record
    content = json.loads(path.read_text())
    for broken in (
        {"schema": 99},
        {"hardware": "any"},
        {"profiles": []},
        {"profiles": [{"batch": [3, 2, 1]}]},
        {"x": 1},
    ):
        path.write_text(json.dumps({**content, **broken}))
        with pytest.raises(BundleError):
            EngineRecord.read(path)


def test_plugins_are_layers_of_the_engine(plugin_bundle: Path, options: EngineOptions, trt: ModuleType) -> None:
    """The fused ops would run as TensorRT's own layers, and the record would say that they are our kernels."""
    reports = add_engines(plugin_bundle, options=replace(options, plugins=True))
    record = next(report.record for report in reports if report.record.graph == "visual_grounder")
    assert sorted(record.plugins.values()) == [
        "ImgBoundaryLogits",
        "ImgConvBlock4",
        "ImgConvBlock4",
        "ImgQueryAttention",
        "ImgSelfAttention2",
        "ImgSelfAttention2",
        "ImgWordsCrossAttention2",
    ]
    assert set(record.plugins) <= set(record.layers)
    assert len(record.ptx_sha256) == 64
    assert trt.registered == set(record.plugins.values())
    without = add_engines(plugin_bundle, options=options)
    assert not any(report.record.plugins or report.record.ptx_sha256 for report in without)
    assert {report.record.key for report in without}.isdisjoint({report.record.key for report in reports})


def test_a_plugin_that_is_no_layer_fails_the_build(
    plugin_bundle: Path, options: EngineOptions, trt: ModuleType
) -> None:
    """TensorRT would have inlined the body in silence."""
    trt.Builder.drops = "visual.query_attention/ImgQueryAttention"
    with pytest.raises(BackendError, match=r"lacks the plugins visual.query_attention/ImgQueryAttention"):
        add_engines(plugin_bundle, options=replace(options, plugins=True))


def test_a_plugin_that_is_not_registered_stops_the_parser(
    plugin_bundle: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of standard ops that is still in the model would be run instead."""
    monkeypatch.setattr("img_deploy.kernels.trt_plugins.register_plugins", lambda *_: None)
    with pytest.raises(BackendError, match=r"parser refuses visual_grounder .*Plugin not found"):
        add_engines(plugin_bundle, options=replace(options, plugins=True))


def test_graphs_without_plugin_nodes_are_no_engine_of_our_kernels(bundle: Path, options: EngineOptions) -> None:
    """Asked for kernels, a user would get an engine of TensorRT's own layers without a word."""
    with pytest.raises(BackendError, match=r"standard ops alone.*--plugins on"):
        add_engines(bundle, options=replace(options, plugins=True))


def test_a_kernel_that_cannot_be_compiled_is_one_line(
    plugin_bundle: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user with a network of other sizes would get a traceback."""

    def refuses(*_: object) -> None:
        raise ValueError("node ImgConvBlock4: its kernel wants 200000 bytes of shared memory, a block here has 101376")

    monkeypatch.setattr("img_deploy.kernels.plugin_ptx.plugin_kernels", refuses)
    with pytest.raises(BackendError, match=r"200000 bytes of shared memory.*--plugins off"):
        add_engines(plugin_bundle, options=replace(options, plugins=True))


@pytest.mark.parametrize(("hardware", "target"), [("same_gpu", "90, gpu='NVIDIA H200'"), ("ampere_plus", "80, gpu=''")])
@pytest.mark.usefixtures("unverified")
def test_kernels_are_compiled_for_where_the_engine_may_run(
    hardware: str, target: str, plugin_bundle: Path, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PTX of one GPU generation inside an engine for all would fail on the others."""
    from img_deploy.kernels import plugin_ptx

    seen = []
    compile_ = plugin_ptx.plugin_kernels
    monkeypatch.setattr(plugin_ptx, "plugin_kernels", lambda *args: seen.append(str(args[3])) or compile_(*args))
    add_engines(plugin_bundle, options=replace(options, plugins=True, hardware=hardware))
    assert set(seen) == {f"Target(capability={target})"}


def test_references_in_the_place_of_kernels_are_tried_and_not_kept(
    plugin_bundle: Path, options: EngineOptions, trt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that calls PyTorch would be shipped, and fail in every other process."""
    asked: list[int] = []
    parse = trt.OnnxParser.parse

    def noting(self: object, model: bytes) -> bool:
        nodes = onnx.load_from_string(model).graph.node
        asked.extend(each.i for node in nodes for each in node.attribute if each.name == "aot")
        return parse(self, model)

    monkeypatch.setattr(trt.OnnxParser, "parse", noting)
    monkeypatch.setattr(trt.build, "AOT", 0)
    before, told = files(plugin_bundle), []
    add_engines(plugin_bundle, options=replace(options, plugins=True, references=True), tell=told.append)
    assert set(asked) == {0}
    assert "not kept" in told[-1]
    assert files(plugin_bundle) == before
    assert Bundle.open(plugin_bundle).manifest.engines == {}
