"""Compiled packages: in a bundle, verified like the rest, and held to the sizes that they were compiled for."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from img_deploy.errors import BackendError, InputError, VerificationError
from img_deploy.export import aoti as compiling
from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint
from img_deploy.model.graphs import GRAPH_NAMES, graph_specs
from img_deploy.runtime.aoti_files import AotiPackages, packages_in, place, this_machine
from img_deploy.runtime.backends import aoti as backend_module
from img_deploy.runtime.backends.torch_eager import TorchBackend
from img_deploy.runtime.bundle import Bundle

GRAPH = "visual_grounder"


@pytest.fixture(scope="module")
def compiled(checkpoints, tmp_path_factory):
    """The smallest graph of the token run as a real package: (backend, eager backend, its record)."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler, which AOTInductor needs")
    network = checkpoints["tiny_vlm"].network()
    folder, spec = tmp_path_factory.mktemp("aoti"), graph_specs(network.config)[GRAPH]
    program = compiling.program_from_graph(network, spec, compiling.SINGLE_NODES["cpu"])
    path = folder / f"{GRAPH}.pt2"
    compiling.package(program, path, {"aot_inductor.compile_wrapper_opt_level": "O0"})
    record = AotiPackages(this_machine("cpu"), "fp32", {GRAPH: path.name}, {GRAPH: compiling.ranges_of(program, spec)})
    backend_module._register_ops()
    loaded = {GRAPH: torch._inductor.aoti_load_package(str(path))}
    specs = graph_specs(network.config)
    return backend_module.AotiBackend(loaded, record, specs), TorchBackend(network), record


def feeds(clips, words, dim=32, seed=0):
    """Clips and words of samples of these lengths, padded to the longest."""
    rng = np.random.default_rng(seed)
    masks = [np.arange(max(lengths)) < np.array(lengths)[:, None] for lengths in (clips, words)]
    values = [rng.standard_normal((*mask.shape, dim), np.float32) * mask[..., None] for mask in masks]
    names = ("visual_clips", "visual_words", "clip_mask", "word_mask")
    return dict(zip(names, (*values, *masks), strict=True))


@pytest.mark.parametrize(
    ("clips", "words"), [([1], [1]), ([1, 1], [1, 2]), ([16], [7]), ([3, 16, 1, 9, 2, 12, 5], [4, 1, 9, 2, 2, 3, 40])]
)
def test_a_package_answers_like_the_network_at_every_size(compiled, clips, words):
    """A size that the trace took for a constant (a batch of one, above all) gives wrong answers without an error."""
    package, eager, _ = compiled
    given = feeds(clips, words)
    found, expected = package.run(GRAPH, given), eager.run(GRAPH, given)
    for name, values in expected.items():
        for row, length in enumerate(clips):
            np.testing.assert_allclose(found[name][row, :length], values[row, :length], atol=1e-4, rtol=0)


def test_sizes_it_was_not_compiled_for_are_refused(compiled):
    """Machine code checks nothing: a batch or a video beyond its range reads past its memory."""
    package, _, record = compiled
    assert record.ranges[GRAPH] == {"batch": (1, 1 << 16), "clips": (1, 16), "words": (1, 128)}
    with pytest.raises(BackendError, match="got 17 clips, its package takes 1 to 16"):
        package.run(GRAPH, feeds([17], [2]))
    with pytest.raises(BackendError, match="got 0 batch"):
        package.run(GRAPH, {name: values[:0] for name, values in feeds([2], [2]).items()})


@pytest.fixture
def quick(checkpoints, monkeypatch, quick_graphs):  # noqa: ARG001
    """Exports copy their graphs, and packages are stand-ins that the eager network answers for."""
    network = checkpoints["tiny_glove"].network()

    def package(_program, path, _settings):
        path.write_bytes(b"machine code")

    monkeypatch.setattr(compiling, "package", package)
    monkeypatch.setattr(compiling, "program_from_graph", lambda *_: SimpleNamespace())
    monkeypatch.setattr(compiling, "ranges_of", lambda *_: {"batch": (1, 9)})
    opened = []

    def open_backend(device, bundle, _threads):
        assert packages_in(bundle, device) is not None
        opened.append(bundle)
        answers = TorchBackend(network)
        answers.name = "aoti"
        return answers

    monkeypatch.setattr(backend_module, "open_backend", open_backend)
    return SimpleNamespace(opened=opened, network=network)


def test_packages_are_verified_and_listed(quick, checkpoints, tmp_path):
    """`--targets onnx,aoti` would make nothing, or ship what nobody compared."""
    options = ExportOptions(targets=("onnx", "aoti"))
    verification = bundle_from_checkpoint(checkpoints["tiny_glove"], tmp_path / "deploy", options)
    rows = [row for row in verification.rows if row.backend == "aoti"]
    assert [row.graph for row in rows] == list(GRAPH_NAMES)
    assert all(row.passed and row.bytes == len(b"machine code") for row in rows)
    bundle = Bundle.open(tmp_path / "deploy")
    bundle.check_all()
    assert {place("cpu", "fp32", graph) for graph in GRAPH_NAMES} <= set(bundle.manifest.files)
    assert packages_in(bundle, "cpu").ranges["grounder"] == {"batch": (1, 9)}
    assert backend_module.unavailable("cpu", bundle) is None
    assert len(quick.opened) == 1


def test_a_package_that_is_off_is_not_shipped(quick, checkpoints, tmp_path):
    """A compiler's fault would be found by users."""
    with torch.no_grad():
        quick.network.visual.predictor.start[-1].bias.add_(0.01)
    with pytest.raises(VerificationError, match=r"aoti fp32 visual_grounder: off by 1\.0e-02"):
        bundle_from_checkpoint(checkpoints["tiny_glove"], tmp_path / "deploy", ExportOptions(targets=("onnx", "aoti")))
    assert not (tmp_path / "deploy").exists()


def test_a_cpu_compiles_fp32_alone(quick, checkpoints, tmp_path):  # noqa: ARG001
    """fp16 on a CPU would take minutes to compile and seconds to answer; the others are made all the same."""
    with pytest.raises(InputError, match="aoti compiles fp32 alone on a cpu"):
        bundle_from_checkpoint(
            checkpoints["tiny_glove"], tmp_path / "a", ExportOptions(precisions=("fp16",), targets=("onnx", "aoti"))
        )
    assert not (tmp_path / "a").exists()
    assert compiling.compiled_precisions(("fp16", "fp32"), "cpu") == ("fp32",)
    assert compiling.compiled_precisions(("fp16", "fp32"), "cuda") == ("fp16", "fp32")


def test_without_a_compiler_it_says_what_to_do(tmp_path, monkeypatch):
    """A traceback of a compiler that is not there."""
    from torch import _inductor

    def compile_(*_, **__):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nerror: g++ not found")

    monkeypatch.setattr(_inductor, "aoti_compile_and_package", compile_)
    with pytest.raises(BackendError, match=r"does not compile .*g\+\+.*leave aoti out of --targets") as refused:
        compiling.package(None, tmp_path / "grounder.pt2", {})
    assert "\n" not in str(refused.value)
