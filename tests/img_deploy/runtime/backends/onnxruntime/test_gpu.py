"""ONNX Runtime with bound memory: padding, cutting, CUDA graphs that fail, and the options that providers are given.

A CPU stands in for the GPU: binding to fixed memory works there as well.
"""

import threading
from pathlib import Path

import numpy as np
import pytest

from img_deploy import hardware
from img_deploy.errors import BackendError
from img_deploy.model.graphs import graph_specs
from img_deploy.runtime.backends.onnxruntime import backend as ort
from img_deploy.runtime.backends.onnxruntime import gpu as ort_gpu
from img_deploy.runtime.backends.onnxruntime import tensorrt_provider
from img_deploy.runtime.backends.protocol import on_host
from img_deploy.runtime.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(exported):
    return Bundle.open(exported("tiny_glove"))


@pytest.fixture(scope="module")
def plain(bundle):
    return ort.OrtBackend(bundle, threads=1)


@pytest.fixture
def bound(bundle):
    backend = ort_gpu.OrtGpuBackend(bundle, device="cpu", threads=1)
    yield backend
    backend.close()


@pytest.fixture
def feeds(bundle):
    rng = np.random.default_rng(11)

    def draw(graph, **sizes):
        sizes = {"batch": 3, "clips": 7, "words": 4, "chars": 5, **sizes}
        made = {}
        for tensor in graph_specs(bundle.manifest.model)[graph].inputs:
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
            if tensor.name.endswith("mask"):
                made[tensor.name] = np.arange(shape[1])[None] < rng.integers(1, shape[1] + 1, shape[0])[:, None]
            elif tensor.dtype == "bool":
                made[tensor.name] = rng.random(shape) < 0.2
            elif tensor.dtype == "int64":
                made[tensor.name] = rng.integers(0, 3, shape)
            else:
                made[tensor.name] = rng.standard_normal(shape).astype(np.float32)
        return made

    return draw


def same(found, wanted, feeds):
    mask = feeds.get("clip_mask", feeds.get("word_mask"))
    assert set(found) == set(wanted)
    found = {name: on_host(value) for name, value in found.items()}
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        real = mask if value.ndim > 1 else slice(None)
        np.testing.assert_allclose(found[name][real], value[real], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("graph", ["video_encoder", "query_encoder", "grounder", "visual_grounder"])
@pytest.mark.parametrize("batch", [1, 3, 67])
def test_bound_memory_gives_the_same_answers(graph, batch, bound, plain, feeds):
    """Padding would reach the answers, or a batch larger than the largest bucket would lose its end."""
    given = feeds(graph, batch=batch)
    same(bound.run(graph, given), plain.run(graph, given), given)


def test_an_earlier_request_does_not_show(bound, feeds):
    """Infinities of a longer video would turn into NaN under the mask of a shorter one."""
    small = feeds("grounder", batch=2, clips=3)
    before = bound.run("grounder", small)
    large = feeds("grounder", batch=2, clips=15)
    bound.run("grounder", {n: np.full_like(v, np.inf) if v.dtype == np.float32 else v for n, v in large.items()})
    after = bound.run("grounder", small)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_threads_wait_for_each_other(bound, plain, feeds):
    """Two requests in one bucket would overwrite each other's inputs."""
    given = [feeds("grounder", batch=2, clips=5) for _ in range(6)]
    wanted = [plain.run("grounder", each) for each in given]
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: bound.run("grounder", given[i])})) for i in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, each in found.items():
        same(each, wanted[index], given[index])
    assert len(found) == 6


def test_a_graph_that_cannot_be_captured_runs_without_and_says_so(bound, plain, feeds, monkeypatch):
    """An operator on the CPU in the middle of a graph would make every request fail."""
    bound._graphs["grounder"] = True
    run = ort_gpu.BoundRun.__call__

    def refuses(self, *args):
        if self._number >= 0:
            raise RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")
        return run(self, *args)

    monkeypatch.setattr(ort_gpu.BoundRun, "__call__", refuses)
    given = feeds("grounder")
    same(bound.run("grounder", given), plain.run("grounder", given), given)
    assert "901" in bound.notes()["grounder: no CUDA graph"]


def test_a_run_that_fails_is_one_line(bound, feeds, monkeypatch):
    """A user would get a traceback from inside ONNX Runtime."""

    def fails(*_):
        raise RuntimeError("CUDA error\nout of memory")

    monkeypatch.setattr(ort_gpu.BoundRun, "__call__", fails)
    with pytest.raises(BackendError, match=r"backend onnxruntime: grounder failed \(CUDA error out of memory\)"):
        bound.run("grounder", feeds("grounder"))
    given = {name: value for name, value in feeds("grounder").items() if name != "clip_mask"}
    with pytest.raises(BackendError, match="clip_mask"):
        bound.run("grounder", given)


def test_options_of_the_providers(bundle, tmp_path, monkeypatch):
    """TF32 would be 1e-3 off; engines of another export would be found; or a size would have no profile."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cuda = ort_gpu.OrtGpuBackend(bundle).providers("grounder")
    assert cuda == [
        ("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"}),
        "CPUExecutionProvider",
    ]
    assert ort_gpu.OrtGpuBackend(bundle, graphs=False).providers("grounder")[0][1]["enable_cuda_graph"] == "0"
    tensorrt = tensorrt_provider.OrtTensorrtBackend(bundle)
    first, second, third = tensorrt.providers("query_encoder")
    assert (first[0], second[0], third) == (
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "CPUExecutionProvider",
    )
    options = first[1]
    assert all(isinstance(value, str) for value in options.values())
    folder = tmp_path / "img-deploy" / "onnxruntime"
    assert Path(options["trt_engine_cache_path"]) == Path(options["trt_timing_cache_path"]) == folder
    assert folder.is_dir()
    digest = bundle.manifest.files[bundle.manifest.graphs["fp32"]["query_encoder"]][:12]
    assert options["trt_engine_cache_prefix"] == f"query_encoder_{digest}"
    limits = bundle.manifest.limits
    least = dict(part.split(":") for part in options["trt_profile_min_shapes"].split(","))
    most = dict(part.split(":") for part in options["trt_profile_max_shapes"].split(","))
    assert least["char_ids"] == "1x1x4"
    assert most["char_ids"] == f"64x{limits['words']}x{limits['chars']}"
    assert set(least) == set(most) == {"word_vectors", "word_unknown", "char_ids", "word_mask"}


def test_a_machine_without_the_provider_says_so(bundle, monkeypatch):
    """`--backend onnxruntime-tensorrt` would fail with a message about a missing library."""
    assert tensorrt_provider.unavailable("cuda", bundle) is not None
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 1)
    monkeypatch.setattr(ort, "providers", lambda: (ort.CPU, ort_gpu.CUDA))
    assert "has no TensorrtExecutionProvider" in tensorrt_provider.unavailable("cuda", bundle)
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(BackendError):
        ort_gpu.open_backend("cuda", bundle, 1)
