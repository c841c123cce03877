"""TensorRT's own Python bindings where they are at hand, without TensorRT: its libraries are replaced by stubs.

``make trt-bindings`` puts the bindings into ``.trt/<version>/``. A test that needs them is skipped without them.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch

from img_deploy.export import engines
from img_deploy.export.engine_options import EngineOptions
from img_deploy.kernels import plugin_ptx, trt_plugins
from img_deploy.kernels.plugin_ptx import PluginKernel
from img_deploy.runtime.backends.tensorrt import backend as trt_backend
from img_deploy.runtime.backends.tensorrt.records import TrtMachine
from img_deploy.runtime.bundle import Bundle, write_manifest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
VERSIONS = ("10.15.1.29", "10.16.1.11", "11.4.0.106")
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``stubs("11")``: folder with stand-ins for the libraries of a major version."""
    made: dict[str, Path] = {}

    def build(major: str) -> Path:
        if major not in made:
            compiler = shutil.which(os.environ.get("CC", "cc"))
            if compiler is None:
                pytest.skip("no C compiler to make stand-ins for TensorRT's libraries with")
            folder = tmp_path_factory.mktemp(f"stubs{major}")
            source = HERE / "bindings" / "stubs.c"
            for library in LIBRARIES:
                target = folder / f"{library}.so.{major}"
                subprocess.run([compiler, "-shared", "-fPIC", "-o", target, source], check=True)
            made[major] = folder
        return made[major]

    return build


@pytest.fixture(scope="session")
def in_bindings(stubs: Callable[[str], Path]) -> Callable[..., str]:
    """``in_bindings("11.4.0.106", "plugins.py", argument)``: the last line that a script of ``bindings/`` prints."""

    def run(version: str, script: str, *arguments: str | Path) -> str:
        package = ROOT / ".trt" / version
        if not (package / "tensorrt_bindings").is_dir():
            pytest.skip(f"no TensorRT {version} bindings in .trt/ (make trt-bindings)")
        folder = HERE / "bindings"
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(stubs(version.split(".")[0])),
            "PYTHONPATH": os.pathsep.join((str(package), str(folder), str(ROOT))),
        }
        command = [sys.executable, str(folder / script), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]  # before it, TensorRT's logger

    return run


class HostStream:
    """Stands in for a CUDA stream: its device is the processor, and what is put on it is done at once."""

    handle = 7
    captures_fail = False

    def device_memory(self, size: int) -> torch.Tensor:
        return torch.full((size,), 0x55, dtype=torch.uint8)

    host_memory = device_memory

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def captured(self, launch: Callable[[], None]) -> Callable[[], None]:
        if HostStream.captures_fail:
            raise RuntimeError("operation not permitted when stream is capturing")
        return launch

    def wait(self) -> None:
        pass


def kernels_without_compiling(node: str, types: object, sizes: object, target: object) -> tuple[PluginKernel, ...]:
    return (PluginKernel("kernel", f"{node} {types} {sizes} {target}", 32, 0, {}, "any"),)


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in of ``double/`` in the place of ``tensorrt`` 11.4, on a GPU of compute capability 9.0."""
    spec = importlib.util.spec_from_file_location("tensorrt", HERE / "double/__init__.py")
    double = importlib.util.module_from_spec(spec)
    for part in ("build", "engine", "names"):  # anew for each test: they keep what was asked of them
        monkeypatch.delitem(sys.modules, f"tensorrt.{part}", raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    spec.loader.exec_module(double)
    double.__version__ = "11.4.0.106"

    def machine(trt: ModuleType) -> TrtMachine:
        return TrtMachine(trt.__version__, "NVIDIA H200", "9.0")

    monkeypatch.setattr(engines, "this_machine", machine)
    monkeypatch.setattr(trt_backend, "this_machine", machine)
    monkeypatch.setattr(trt_backend, "CudaStream", HostStream)
    monkeypatch.setattr(HostStream, "captures_fail", False)
    monkeypatch.setattr(trt_plugins, "register_plugins", lambda nodes, _target: double.registered.update(nodes))
    monkeypatch.setattr(plugin_ptx, "plugin_kernels", kernels_without_compiling)
    return double


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions(max_batch=16, timing_cache=tmp_path / "cache" / "timing", plugins=False)


@pytest.fixture(scope="session")
def plain(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GloVe bundle without engines. Copy it to change it."""
    folder = tmp_path_factory.mktemp("plain") / "deploy"
    shutil.copytree(golden / "bundle_of_0.1" / "bundle", folder, ignore=shutil.ignore_patterns("aoti"))
    write_manifest(folder, Bundle.open(folder).manifest)
    return folder


@pytest.fixture
def bundle(plain: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(plain, tmp_path / "deploy"))


@pytest.fixture(scope="session")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built") / "deploy"


@pytest.fixture
def with_engines(_built: Path, plain: Path, trt: ModuleType, tmp_path: Path) -> Path:
    """A copy of the bundle with fp32 engines of ``double/``."""
    if not _built.exists():
        shutil.copytree(plain, _built)
        made = EngineOptions(max_batch=16, timing_cache=_built.with_name("timing"), plugins=False)
        engines.add_engines(_built, options=made)
        trt.IExecutionContext.executed.clear()
    return Path(shutil.copytree(_built, tmp_path / "with_engines"))


@pytest.fixture(scope="session")
def plugin_graph(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The visual grounder of that bundle, its fused ops single nodes with a function for a body."""
    from img_deploy.export.functions import FunctionLibrary
    from img_deploy.export.onnx_from_program import model_metadata, onnx_from_program
    from img_deploy.export.programs import program_from_graph
    from img_deploy.model.graphs import graph_specs
    from img_deploy.runtime.backends.torch.backend import network_from_bundle

    network = network_from_bundle(Bundle.open(plain))
    spec = graph_specs(network.config)["visual_grounder"]
    metadata = model_metadata(spec, network.config, "fp32")
    program = program_from_graph(network, spec)
    model = onnx_from_program(program, spec, FunctionLibrary(), metadata, plugins=True)
    path = tmp_path_factory.mktemp("plugins") / "visual_grounder.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def plugin_bundle(bundle: Path, plugin_graph: Path) -> Path:
    """A bundle whose visual grounder holds plugin nodes."""
    opened = Bundle.open(bundle)
    shutil.copy(plugin_graph, bundle / opened.manifest.graphs["fp32"]["visual_grounder"])
    write_manifest(bundle, opened.manifest)
    return bundle
