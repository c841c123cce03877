"""The TensorRT backend on engines of the stand-in: answers, sizes, threads, and everything that can be wrong."""

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from img_deploy import hardware
from img_deploy.errors import BackendError, BundleError
from img_deploy.export.samples import drawn_samples
from img_deploy.export.verify import in_run_order, results
from img_deploy.model.graphs import graph_specs
from img_deploy.runtime.backends.buckets import shape_range
from img_deploy.runtime.backends.onnxruntime.backend import OrtBackend
from img_deploy.runtime.backends.protocol import FAULTS, on_host
from img_deploy.runtime.backends.tensorrt import backend as trt_backend
from img_deploy.runtime.backends.tensorrt.edition import FULL, version_numbers
from img_deploy.runtime.backends.tensorrt.profiles import ladders, most_samples, profile_for, profiles
from img_deploy.runtime.backends.tensorrt.records import (
    TrtMachine,
    engine_files,
    fitting_engine,
    misfits,
)
from img_deploy.runtime.bundle import Bundle, write_manifest

pytestmark = pytest.mark.usefixtures("trt")


@pytest.fixture
def backend(with_engines: Path) -> trt_backend.TrtBackend:
    return trt_backend.open_backend("cuda", Bundle.open(with_engines), None)


@pytest.fixture
def feeds(with_engines: Path) -> Callable[..., dict[str, np.ndarray]]:
    """``feeds("grounder", batch=3, clips=5, words=4)``: random inputs of a graph, ragged masks."""
    specs = graph_specs(Bundle.open(with_engines).manifest.model)
    rng = np.random.default_rng(3)

    def draw(graph: str, **sizes: int) -> dict[str, np.ndarray]:
        sizes = {"batch": 3, "clips": 7, "words": 4, "chars": 5, **sizes}
        made = {}
        for tensor in specs[graph].inputs:
            shape = [sizes[axis] if isinstance(axis, str) else axis for axis in tensor.axes]
            if tensor.name.endswith("mask"):
                lengths = rng.integers(1, shape[1] + 1, shape[0])
                made[tensor.name] = np.arange(shape[1])[None] < lengths[:, None]
            elif tensor.dtype == "bool":
                made[tensor.name] = rng.random(shape) < 0.2
            elif tensor.dtype == "int64":
                made[tensor.name] = rng.integers(0, 3, shape)
            else:
                made[tensor.name] = rng.standard_normal(shape).astype(np.float32)
        return made

    return draw


def close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], feeds: dict[str, np.ndarray]) -> None:
    """Equal wherever a clip or word is real; beyond, outputs are whatever they are."""
    assert set(found) - {FAULTS} == set(wanted)
    assert not found.get(FAULTS, np.zeros(1)).any()
    found = {name: on_host(value) for name, value in found.items()}
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        mask = feeds.get("clip_mask", feeds.get("word_mask"))
        real = mask if value.ndim > 1 else slice(None)
        np.testing.assert_allclose(found[name][real], value[real], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("graph", ["video_encoder", "query_encoder", "grounder", "visual_grounder"])
@pytest.mark.parametrize("batch", [1, 3, 37])
def test_answers_do_not_depend_on_padding_or_splitting(
    graph: str, batch: int, backend: trt_backend.TrtBackend, feeds: Callable, with_engines: Path
) -> None:
    """A request is padded to a bucket, split at the engine's largest batch, and put together again."""
    wanted = OrtBackend(Bundle.open(with_engines))
    for clips in (1, 9):
        given = feeds(graph, batch=batch, clips=clips)
        close(backend.run(graph, given), wanted.run(graph, given), given)


def test_memory_of_an_earlier_request_does_not_show(backend: trt_backend.TrtBackend, feeds: Callable) -> None:
    """What a larger request, or one with infinities, left in the buffers would reach a smaller one's answer."""
    small = feeds("grounder", batch=2, clips=3)
    before = backend.run("grounder", small)
    poisoned = {
        name: np.full_like(value, np.inf) if value.dtype == np.float32 else value
        for name, value in feeds("grounder", batch=5, clips=11).items()
    }
    backend.run("grounder", poisoned)
    after = backend.run("grounder", small)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
        assert not np.shares_memory(after[name], value)


def test_contexts_keep_their_shapes(backend: trt_backend.TrtBackend, feeds: Callable, trt: ModuleType) -> None:
    """TensorRT works anew, and some versions lose memory, at every change of a context's shapes."""
    made = trt.IExecutionContext.made
    for _ in range(3):
        for clips in (2, 5, 12):  # one bucket
            backend.run("grounder", feeds("grounder", batch=2, clips=clips))
        backend.run("grounder", feeds("grounder", batch=1, clips=5))
    assert trt.IExecutionContext.made - made == 2
    profiles_seen = {profile for profile, _ in trt.IExecutionContext.executed}
    assert profiles_seen == {0, 1}


def test_threads_do_not_share_contexts(
    backend: trt_backend.TrtBackend,
    feeds: Callable,
    with_engines: Path,
    trt: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An execution context is not for two threads at once: answers would mix."""
    running: set[int] = set()
    overlaps: list[int] = []
    most: list[int] = []
    run = trt.IExecutionContext.execute_async_v3

    def watched(self: Any, stream: int) -> bool:
        overlaps.extend([id(self)] if id(self) in running else [])
        running.add(id(self))
        most.append(len(running))
        done = run(self, stream)
        running.discard(id(self))
        return done

    monkeypatch.setattr(trt.IExecutionContext, "execute_async_v3", watched)
    wanted = OrtBackend(Bundle.open(with_engines), threads=1)
    given = [feeds("grounder", batch=1 + index % 3, clips=1 + index) for index in range(8)]
    expected = [wanted.run("grounder", each) for each in given]
    found: dict[int, Any] = {}
    barrier = threading.Barrier(4)

    def work(first: int) -> None:
        barrier.wait()
        for index in (first, first + 4):
            found[index] = backend.run("grounder", given[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlaps
    for index, each in found.items():
        close(each, expected[index], given[index])
    assert len(found) == 8


def test_a_run_that_did_not_start_is_no_answer(
    backend: trt_backend.TrtBackend, feeds: Callable, trt: ModuleType
) -> None:
    """enqueue returns a bool: unchecked, the outputs of the last request would pass for answers."""
    given = feeds("grounder", batch=2)
    backend.run("grounder", given)
    trt.IExecutionContext.fails = True
    with pytest.raises(BackendError, match="grounder could not be started"):
        backend.run("grounder", given)
    trt.IExecutionContext.fails = False
    backend.run("grounder", given)  # on a lane of its own: the broken one is gone


@pytest.mark.parametrize(
    ("method", "value", "said"),
    [
        ("set_optimization_profile_async", False, "refuses profile 1"),
        ("set_input_shape", False, "refuses shape"),
        ("set_tensor_address", False, "refuses the address"),
        ("infer_shapes", ["clip_mask"], "does not know the shapes of clip_mask"),
        ("get_tensor_shape", (1, 2), "gives start_logits the shape [1, 2], expected"),
    ],
)
def test_every_answer_of_a_context_is_looked_at(
    method: str,
    value: Any,
    said: str,
    backend: trt_backend.TrtBackend,
    feeds: Callable,
    trt: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A context that was not set up would run on the wrong memory."""
    monkeypatch.setattr(trt.IExecutionContext, method, lambda *_: value)
    with pytest.raises(BackendError, match="backend tensorrt: grounder") as caught:
        backend.run("grounder", feeds("grounder", batch=2))
    assert said in str(caught.value)


def test_a_graph_that_cannot_be_captured_runs_without_and_says_so(
    backend: trt_backend.TrtBackend, feeds: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop inside the engine must cost speed, not the answer, and not in silence."""
    from img_deploy.runtime.backends.tensorrt.backend import CudaStream

    monkeypatch.setattr(CudaStream, "captures_fail", True)
    given = feeds("grounder")
    assert np.isfinite(backend.run("grounder", given)["importance"]).all()
    assert "not permitted" in backend.notes()["grounder: no CUDA graph"]


def test_sizes_that_no_profile_takes_are_refused(
    backend: trt_backend.TrtBackend, feeds: Callable, with_engines: Path
) -> None:
    """A video longer than the network takes would be cut, or fail deep inside TensorRT."""
    most = Bundle.open(with_engines).manifest.limits["clips"]
    with pytest.raises(BackendError, match=f"got {most + 1} clips, expected 1 to {most}"):
        backend.run("grounder", feeds("grounder", batch=1, clips=most + 1))
    given = feeds("grounder")
    with pytest.raises(BackendError, match="clip_mask"):
        backend.run("grounder", {name: value for name, value in given.items() if name != "clip_mask"})


def test_a_closed_backend_says_so(backend: trt_backend.TrtBackend, feeds: Callable) -> None:
    """Freed GPU memory would be used again."""
    given = feeds("grounder")
    backend.run("grounder", given)
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run("grounder", given)


def test_whole_samples_answer_as_with_onnx_runtime(backend: trt_backend.TrtBackend, with_engines: Path) -> None:
    """The stages around the graphs (bucketing, decoding) would not get what they need from this backend."""
    bundle = Bundle.open(with_engines)
    samples = in_run_order(drawn_samples(bundle.manifest.model, bundle.vocabulary(), 1))
    found, wanted = results(backend, samples, 64), results(OrtBackend(bundle), samples, 1)
    assert [each.span for each in found] == [each.span for each in wanted]


MACHINE = TrtMachine("11.4.0.106", "NVIDIA H200", "9.0", "linux-x86_64")


@pytest.mark.parametrize(
    ("record", "machine", "said"),
    [
        ({}, {}, None),
        ({}, {"tensorrt": "11.4.0.107"}, "built with TensorRT 11.4.0.106, here is 11.4.0.107"),
        ({"version_compatible": True}, {"tensorrt": "11.9.1"}, None),
        ({"version_compatible": True}, {"tensorrt": "11.3.0"}, "for that and later 11.x, here is 11.3.0"),
        ({"version_compatible": True}, {"tensorrt": "12.0.0"}, "here is 12.0.0"),
        ({}, {"gpu": "NVIDIA H100"}, "built on NVIDIA H200, this is NVIDIA H100"),
        ({"hardware": "same_capability"}, {"gpu": "NVIDIA H100"}, None),
        ({"hardware": "same_capability"}, {"capability": "8.9"}, "built for compute capability 9.0"),
        ({"hardware": "ampere_plus"}, {"gpu": "NVIDIA L4", "capability": "8.9"}, None),
        ({"hardware": "ampere_plus"}, {"gpu": "Tesla T4", "capability": "7.5"}, "capability 8.0 and newer"),
        ({}, {"platform": "win32-amd64"}, "built on linux-x86_64, this is win32-amd64"),
        ({"onnx_sha256": "0" * 64}, {}, "another ONNX graph"),
    ],
)
def test_compatibility_rules(record: dict, machine: dict, said: str | None, with_engines: Path) -> None:
    """A plan of another TensorRT, GPU or system crashes the process, or answers wrongly, when it is loaded."""
    (engine,) = engine_files(Bundle.open(with_engines), "grounder")
    known = replace(engine.record, platform="linux-x86_64", **record)
    found = misfits(known, replace(MACHINE, **machine), engine.record.onnx_sha256)
    assert (found == []) if said is None else (len(found) == 1 and said in found[0])


def test_an_engine_that_does_not_fit_is_not_read(
    with_engines: Path, trt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT trusts a plan as code: it must not see one that cannot be meant for it."""
    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", lambda *_: pytest.fail("was read"))
    monkeypatch.setattr(trt_backend, "this_machine", lambda _: replace(MACHINE, tensorrt="10.16.0"))
    bundle = Bundle.open(with_engines)
    with pytest.raises(BackendError, match=r"no engine of \w+ fits .*11.4.0.106, here is 10.16.0.*export --targets"):
        trt_backend.open_backend("cuda", bundle, None)
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 1)
    assert "here is 10.16.0" in str(trt_backend.unavailable("cuda", bundle))


def test_of_several_engines_the_one_that_fits_is_taken(with_engines: Path) -> None:
    """A bundle that served another machine first would not run here."""
    bundle = Bundle.open(with_engines)
    (engine,) = engine_files(bundle, "grounder")
    foreign = replace(engine.record, gpu="NVIDIA L4", capability="8.9")
    path = with_engines / "engines" / "fp32" / f"grounder.{foreign.key}.json"
    path.write_text(foreign.to_json())
    bundle.manifest.engines["fp32"]["grounder"].insert(0, path.relative_to(with_engines).as_posix())
    write_manifest(with_engines, bundle.manifest)
    machine = TrtMachine(engine.record.tensorrt, engine.record.gpu, engine.record.capability)
    found, reasons = fitting_engine(Bundle.open(with_engines), "grounder", machine, FULL)
    assert found == engine
    assert reasons == ["built for compute capability 8.9, NVIDIA H200 has 9.0"]


@pytest.mark.parametrize("how", ["plan", "record", "swapped", "magic"])
def test_damaged_engines_are_refused(how: str, with_engines: Path) -> None:
    """A tampered plan is code that TensorRT would run."""
    bundle = Bundle.open(with_engines)
    plans = {graph: with_engines / engine_files(bundle, graph)[0].plan for graph in ("video_encoder", "grounder")}
    if how == "plan":
        plans["grounder"].write_bytes(b"tampered")
    elif how == "record":
        plans["grounder"].with_suffix(".json").write_text("{")
    elif how == "swapped":  # a hash that fits, but another graph's engine
        plans["grounder"].write_bytes(plans["video_encoder"].read_bytes())
        write_manifest(with_engines, bundle.manifest)
    else:
        plans["grounder"].write_bytes(b"no plan")
        write_manifest(with_engines, bundle.manifest)
    with pytest.raises((BundleError, BackendError)) as caught:
        trt_backend.open_backend("cuda", Bundle.open(with_engines), None)
    assert "grounder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_why_it_is_unavailable(with_engines: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--backend auto` would try it and fail, or say nothing of why it was passed over."""
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 0)
    assert trt_backend.unavailable("cuda", None) == "no NVIDIA GPU"
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 1)
    assert "has no fp32 engines; build engines" in str(trt_backend.unavailable("cuda", Bundle.open(bundle)))
    assert trt_backend.unavailable("cuda", Bundle.open(with_engines)) is None
    assert trt_backend.unavailable("cuda", None) is None
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert "tensorrt is not installed (pip install 'img-deploy[gpu]')" in str(trt_backend.unavailable("cuda", None))


def test_profiles_cover_every_size_and_buckets_stay_inside() -> None:
    """A request inside the limits would find no profile, or be padded beyond all of them."""
    for most_batch in (1, 2, 5, 64, 200):
        found = profiles({"clips": 128, "words": 40, "chars": 30}, most_batch)
        rungs = ladders(found)
        for batch in range(1, most_batch + 1):
            for clips, words, chars in ((1, 1, 4), (128, 40, 30), (33, 17, 16)):
                sizes = {"batch": batch, "clips": clips, "words": words, "chars": chars}
                bucket = dict(rungs.bucket("any", sizes).sizes)
                assert all(bucket[axis] >= size for axis, size in sizes.items())
                assert profile_for(found, bucket) == (0 if batch == 1 else 1)
    with pytest.raises(BackendError, match="no profile of the engine takes 300 batch"):
        profile_for(found, {"batch": 300})


def test_long_queries_run_alone() -> None:
    """An engine would ask for a gigabyte of scratch memory for 64 queries of 128 words of 128 letters each, or refuse
    the one long query that a network can take."""
    found = profiles({"clips": 128, "words": 128, "chars": 128}, 64)
    assert [most_samples(found, {"words": words, "chars": chars}) for words, chars in ((64, 32), (65, 8), (8, 33))] == [
        64,
        1,
        1,
    ]
    assert profile_for(found, {"batch": 1, "words": 128, "chars": 128}) == 0


def test_shapes_of_a_profile(with_engines: Path) -> None:
    """Minimum, best and maximum shapes that are not ordered make TensorRT refuse the profile."""
    config = Bundle.open(with_engines).manifest.model
    found = profiles({"clips": 128, "words": 40, "chars": 30}, 64)
    for spec in graph_specs(config).values():
        for tensor in spec.inputs:
            for profile in found:
                least, best, most = shape_range(tensor, profile)
                assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True))
                assert len(least) == len(tensor.axes)


def test_versions_compare_as_numbers() -> None:
    """10.9 would count as newer than 10.15."""
    assert version_numbers("10.9.0.34") < version_numbers("10.15.1.29") < version_numbers("11.0.0.114")
    assert version_numbers("10.13.3.9.post1") == (10, 13, 3, 9)


def test_records_hold_no_secrets_of_the_machine(with_engines: Path) -> None:
    """A path of the builder's home would travel with the bundle."""
    for path in (with_engines / "engines").rglob("*.json"):
        assert str(Path.home()) not in json.dumps(json.loads(path.read_text()))
