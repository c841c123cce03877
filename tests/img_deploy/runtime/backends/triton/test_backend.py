"""The triton backend without a GPU: padding, parts, errors and modules, the kernels' references standing in.

What the kernels themselves compute is tested under Triton's interpreter (``tests/kernels/interpreter``).
"""

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import BackendError
from img_deploy.kernels.dtypes import ELEMENT_TYPES
from img_deploy.model.graphs import GRAPH_NAMES, PAIR, graph_specs
from img_deploy.runtime.backends.buckets import shape_of
from img_deploy.runtime.backends.padded import fill, stacked
from img_deploy.runtime.backends.protocol import BEST_SCORE, BEST_SPAN, FAULTS, FEATURE_RANGE, on_host
from img_deploy.runtime.backends.torch.backend import TorchBackend
from img_deploy.runtime.backends.triton.backend import FreeStreams, TritonBackend
from img_deploy.runtime.backends.triton.captured_run import StaticRun
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork
from img_deploy.runtime.spans import decode_spans

RUNS = ("tiny_glove", "tiny_vlm")
TOLERANCE = {"fp32": 2e-5, "fp16": 3e-2, "bf16": 2.5e-1}
"""Largest difference of any output, whose size is about 1 to 10; half precisions round every product and sum."""


def backend_of(network, precision="fp32", room=10**9):
    """The backend on the CPU, and the buckets it made runs for; a device with room for ``room`` samples."""
    packed, made = PackedNetwork(network, precision, "cpu"), []

    class Run(StaticRun):
        def compute(self):
            if len(self.inputs["clip_mask" if "clip_mask" in self.inputs else "word_mask"]) > room:
                raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")
            return super().compute()

    def on_new_stream():
        def make(spec, bucket):
            made.append(bucket)
            return Run(packed, spec, bucket)

        return make

    limits = {"clips": network.config.max_clips, "words": 40, "chars": 20}
    return TritonBackend(packed, limits, on_new_stream), made


@pytest.fixture(scope="module")
def networks(checkpoints):
    return {run: checkpoints[run].network() for run in RUNS}


def draw(config, graph, batch, clips, words, seed, garbage=0.0):
    """Feeds of ragged lengths; what lies beyond a sample's length is ``garbage``."""
    random = np.random.default_rng(seed)
    sizes = {"batch": batch, "clips": clips, "words": words, "chars": 4 + seed % 5}
    masks = {
        f"{kind}_mask": np.arange(sizes[f"{kind}s"]) < random.integers(1, sizes[f"{kind}s"] + 1, batch)[:, None]
        for kind in ("clip", "word")
    }
    feeds = {}
    for tensor in graph_specs(config)[graph].inputs:
        shape = shape_of(tensor, sizes)
        if tensor.name in masks:
            feeds[tensor.name] = masks[tensor.name]
        elif tensor.dtype == "float":
            mask = masks["clip_mask" if tensor.axes[1] == "clips" else "word_mask"]
            feeds[tensor.name] = np.where(mask[..., None], random.standard_normal(shape, np.float32), garbage)
        elif tensor.dtype == "int64":
            feeds[tensor.name] = random.integers(1, config.chars, shape) * masks["word_mask"][..., None]
        else:
            feeds[tensor.name] = (random.random(shape) < 0.3) & masks["word_mask"]
    return {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in feeds.items()}


def compare(found, expected, feeds, tolerance):
    found, expected = ({name: on_host(values) for name, values in each.items()} for each in (found, expected))
    for name, values in expected.items():
        real = np.ones(values.shape, bool)
        if values.ndim > 1:
            mask = feeds["word_mask" if name.endswith("words") else "clip_mask"]
            real = np.broadcast_to(mask.reshape(mask.shape + (1,) * (values.ndim - 2)), values.shape)
        assert found[name].shape == values.shape, name
        difference = np.abs(found[name][real].astype(np.float64) - values[real])
        assert difference.max() <= tolerance, f"{name}: off by {difference.max()}"


@pytest.mark.parametrize("run", RUNS)
@given(batch=st.integers(1, 9), clips=st.integers(1, 16), words=st.integers(1, 18), seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_any_batch_gives_the_eager_networks_outputs(networks, run, batch, clips, words, seed):
    """Padding to a bucket, a wrong cut or a buffer's old content would move an output."""
    backend, eager = backend_of(networks[run])[0], TorchBackend(networks[run])
    for graph in GRAPH_NAMES:
        # The second request finds the first one's remains in the buffers of its bucket.
        for feeds in (
            draw(networks[run].config, graph, 9, 16, 18, seed + 1, garbage=1e4),
            draw(networks[run].config, graph, batch, clips, words, seed),
        ):
            compare(backend.run(graph, feeds), eager.run(graph, feeds), feeds, TOLERANCE["fp32"])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precisions(networks, precision):
    """A module would compute in another type than its weights, or lose more than rounding does."""
    network = networks["tiny_glove"]
    backend, eager = backend_of(network, precision)[0], TorchBackend(network)
    for graph in GRAPH_NAMES:
        feeds = draw(network.config, graph, 3, 11, 5, 1)
        found, expected = backend.run(graph, feeds), eager.run(graph, feeds)
        compare(found, expected, feeds, TOLERANCE[precision])
        assert all(on_host(found[name]).dtype in (np.float32, np.float16) for name in expected)
        with pytest.raises(AssertionError):  # it did compute in that precision
            compare(found, expected, feeds, TOLERANCE["fp32"])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("run", RUNS)
def test_a_pair_in_one_graph_gives_what_three_graphs_give(networks, run, precision):
    """What lies beyond a video's clips or a query's words would reach the answer, or inputs go to the wrong encoder."""
    network = networks[run]
    backend, _ = backend_of(network, precision)
    for clips, words, seed in ((16, 16, 0), (9, 3, 1), (1, 1, 2)):
        drawn = [draw(network.config, graph, 1, clips, words, seed) for graph in GRAPH_NAMES[:2]]
        feeds = drawn[0] | drawn[1] | {"clip_mask": np.ones((1, clips), bool), "word_mask": np.ones((1, words), bool)}
        apart = dict(feeds)
        for graph in GRAPH_NAMES[:2]:
            apart |= backend.run(graph, apart)
        expected = backend.run("grounder", apart)
        found = backend.run(PAIR, feeds)
        assert found.keys() - expected.keys() == {FEATURE_RANGE}
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("graph", ["grounder", "visual_grounder"])
@given(batch=st.integers(1, 5), clips=st.integers(1, 16), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_spans_are_those_that_the_host_decodes(networks, run, graph, batch, clips, seed):
    """A span would end in the padding, be that of another sample, or lose digits on its way to the host."""
    network = networks[run]
    feeds = draw(network.config, graph, batch, clips, 5, seed)
    out = backend_of(network)[0].run(graph, feeds)
    expected = decode_spans(out["start_logits"], out["end_logits"], feeds["clip_mask"].sum(axis=1))
    assert out[BEST_SPAN].tolist() == [[i, j] for ((i, j, _),) in expected]
    np.testing.assert_allclose(out[BEST_SCORE][:, 0], [score for ((*_, score),) in expected], rtol=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_pair_tells_the_range_of_its_features(networks, precision):
    """Features that no extractor gives would pass unseen: the host does not look at them."""
    network = networks["tiny_vlm"]
    backend, _ = backend_of(network, precision)
    feeds = draw(network.config, "video_encoder", 1, 9, 3, 1) | draw(network.config, "query_encoder", 1, 9, 3, 1)
    for value, at in ((-250.0, 0), (250.0, 1), (np.inf, 1), (np.nan, 1)):
        for name, first in (("video", 0), ("audio", 2)):
            changed = feeds | {name: feeds[name].copy()}
            changed[name][0, -1, 0] = value
            found = backend.run(PAIR, changed)[FEATURE_RANGE][0]
            assert np.isnan(found[first : first + 2]).all() if np.isnan(value) else found[first + at] == value
            others = np.delete(found, first + at if np.isfinite(value) else [first, first + 1])
            assert np.abs(others).max() < 10


def test_batch_does_not_matter(networks):
    """A sample's outputs would depend on which others fill its bucket."""
    network = networks["tiny_vlm"]
    for precision in ("fp32", "fp16"):
        backend, _ = backend_of(network, precision)
        one, other = (draw(network.config, "grounder", 4, 16, 9, seed) for seed in (1, 2))
        mixed = {name: np.concatenate([one[name][:2], other[name][2:]]) for name in one}
        alone, beside = backend.run("grounder", one), backend.run("grounder", mixed)
        for name in alone:
            np.testing.assert_allclose(alone[name][:2], beside[name][:2], atol=1e-5, rtol=1e-5, err_msg=name)


def test_infinities_of_an_earlier_request_do_not_stay(networks):
    """A feature too large for fp16 would make NaN of every later request of its bucket, or of its neighbours, or pass
    for encoded."""
    network = networks["tiny_vlm"]
    backend, _ = backend_of(network, "fp16")
    broken = draw(network.config, "video_encoder", 2, 16, 1, 0)
    broken["video"][1] = 1e30
    faults = backend.run("video_encoder", broken)[FAULTS]
    assert not faults[0].any()
    assert np.isnan(faults[1]).any()
    feeds = draw(network.config, "video_encoder", 1, 3, 1, 1)
    found = backend.run("video_encoder", feeds)
    compare(found, TorchBackend(network).run("video_encoder", feeds), feeds, TOLERANCE["fp16"])
    assert not found[FAULTS].any()


@given(sizes=st.lists(st.sampled_from([(1, 5, 3), (1, 16, 3), (1, 9, 7), (2, 9, 7)]), min_size=2, max_size=6))
@settings(max_examples=10, deadline=None)
def test_the_requests_before_do_not_matter(networks, sizes):
    """What a request left beside the places of the next one, or places of another size, would reach an answer."""
    network = networks["tiny_glove"]
    backend, _ = backend_of(network)
    for seed, size in enumerate(sizes):
        feeds = draw(network.config, "query_encoder", *size, seed) | draw(network.config, "video_encoder", *size, seed)
        found, expected = ({**each.run(PAIR, feeds)} for each in (backend, backend_of(network)[0]))
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_the_stream_used_last_is_taken_first():
    """Every stream would capture graphs of its own for one caller, or two callers get the same."""
    free = FreeStreams(["a", "b"])
    first = free.take()
    assert free.take() != first
    free.give(first)
    assert free.take() == first


@given(shape=st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)))
@settings(max_examples=30, deadline=None)
def test_filling_leaves_nothing_of_what_was_there(shape):
    """A longer request's clips would be taken for those of a shorter one after it."""
    buffer = np.full((4, 5, 3), np.nan, np.float32)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    fill(buffer, values)
    expected = np.zeros((4, 5, 3), np.float32)
    expected[tuple(slice(size) for size in shape)] = values
    np.testing.assert_array_equal(buffer, expected)


def test_one_run_per_bucket(networks):
    """Every request would capture a graph of its own."""
    network = networks["tiny_vlm"]
    backend, made = backend_of(network)
    for batch, clips, words in ((3, 9, 2), (4, 16, 16), (3, 1, 1), (5, 2, 2), (3, 5, 17), (1, 1, 1)):
        backend.run("visual_grounder", draw(network.config, "visual_grounder", batch, clips, words, 0))
    assert [dict(bucket.sizes) for bucket in made] == [
        {"batch": batch, "clips": 16, "words": words} for batch, words in ((4, 16), (8, 16), (4, 32), (1, 16))
    ]


def test_a_batch_that_does_not_fit_is_run_in_parts(networks):
    """A GPU with little memory would end the run, or answers would come in another order."""
    network = networks["tiny_vlm"]
    backend, made = backend_of(network, room=4)
    feeds = draw(network.config, "grounder", 11, 7, 3, 5)
    compare(backend.run("grounder", feeds), TorchBackend(network).run("grounder", feeds), feeds, TOLERANCE["fp32"])
    assert max(dict(bucket.sizes)["batch"] for bucket in made) == 16
    made.clear()
    backend.run("grounder", feeds)
    assert all(dict(bucket.sizes)["batch"] <= 4 for bucket in made)
    with pytest.raises(BackendError, match=r"^grounder: one sample does not fit the memory of the GPU"):
        backend_of(network, room=0)[0].run("grounder", feeds)


def test_more_than_the_largest_bucket(networks):
    """300 pairs at once would be refused."""
    network = networks["tiny_vlm"]
    feeds = draw(network.config, "visual_grounder", 300, 2, 1, 5)
    found = backend_of(network)[0].run("visual_grounder", feeds)
    compare(found, TorchBackend(network).run("visual_grounder", feeds), feeds, TOLERANCE["fp32"])


def test_errors_are_one_line(networks):
    """A traceback of PyTorch or Triton would reach the user."""
    network = networks["tiny_vlm"]
    backend, _ = backend_of(network)
    config = network.config
    with pytest.raises(BackendError, match=r"^grounder: got 17 clips, expected 1 to 16$"):
        backend.run("grounder", draw(config, "grounder", 1, 17, 3, 0))
    with pytest.raises(BackendError, match=r"^visual_grounder: got 41 words, expected 1 to 40$"):
        backend.run("visual_grounder", draw(config, "visual_grounder", 1, 3, 41, 0))
    with pytest.raises(BackendError, match=r"^grounder: got 0 batch, expected 1 to 256$"):
        backend.run("grounder", {name: value[:0] for name, value in draw(config, "grounder", 1, 3, 3, 0).items()})
    backend.close()
    with pytest.raises(BackendError, match="was closed"):
        backend.run("grounder", draw(config, "grounder", 1, 3, 3, 0))

    def broken():
        def make(_spec, _bucket):
            raise ValueError("PTX is too new\nfor this driver")

        return make

    failing = TritonBackend(PackedNetwork(network, "fp32", "cpu"), backend_limits(config), broken)
    with pytest.raises(
        BackendError, match=r"^backend triton: video_encoder failed \(PTX is too new for this driver\)$"
    ):
        failing.run_smallest()


def backend_limits(config):
    return {"clips": config.max_clips, "words": 40, "chars": 20}


@pytest.mark.parametrize("run", RUNS)
def test_the_smallest_sample_tries_every_graph(networks, run):
    """A kernel that does not compile on this GPU would be found at the first question, not when the backend opens."""
    backend, made = backend_of(networks[run])
    backend.run_smallest()
    assert [bucket.graph for bucket in made] == [*GRAPH_NAMES, PAIR]
    with torch.no_grad():
        packed = backend._streams["pairs"].streams[-1]._runs.get(made[2]).packed
        packed.network.saliency.weight.fill_(float("nan"))
    with pytest.raises(BackendError, match="grounder gives no number for saliency"):
        backend.run_smallest()


def test_two_runs_of_a_kind_overlap_on_memory_of_their_own(networks):
    """Copies would wait for a graph; two runs would share their memory, or more run than there are streams."""
    network = networks["tiny_vlm"]
    packed = PackedNetwork(network, "fp32", "cpu")
    together, counting, running, most = threading.Barrier(4, timeout=120), threading.Lock(), Counter(), Counter()

    class Run(StaticRun):
        def compute(self):
            with counting:
                running[self.spec.name] += 1
                most[self.spec.name] = max(most[self.spec.name], running[self.spec.name])
            together.wait()  # passes only while two runs of either kind are in progress
            out = super().compute()
            with counting:
                running[self.spec.name] -= 1
            return out

    backend = TritonBackend(
        packed, backend_limits(network.config), lambda: lambda spec, bucket: Run(packed, spec, bucket)
    )
    outcomes = []

    def work(graph, seed):
        feeds = draw(network.config, graph, 2, 5, 3, seed)
        try:
            compare(backend.run(graph, feeds), TorchBackend(network).run(graph, feeds), feeds, TOLERANCE["fp32"])
            outcomes.append("same")
        except Exception as error:
            outcomes.append(repr(error))

    threads = [
        threading.Thread(target=work, args=(graph, seed))
        for seed, graph in enumerate(["grounder", "video_encoder"] * 4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["same"] * 8
    assert most == {"grounder": 2, "video_encoder": 2}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@given(
    clips=st.lists(st.integers(1, 16), min_size=1, max_size=5), seed=st.integers(0, 99), host=st.sets(st.integers(0, 4))
)
@settings(max_examples=8, deadline=None)
def test_what_stays_on_the_device_gives_the_same_as_from_the_host(networks, precision, clips, seed, host):
    """Clips of another video, another length or another order would be read where they lie, or rounded on the way."""
    network, random = networks["tiny_glove"], np.random.default_rng(seed)
    backend, config = backend_of(network, precision)[0], network.config
    words = random.integers(1, 9, len(clips))

    def rows(lengths, width):
        return [
            torch.from_numpy(random.standard_normal((n, width), np.float32)).to(
                getattr(torch, ELEMENT_TYPES[precision].torch)
            )
            for n in lengths
        ]

    kept = {
        f"{stream}_{kind}": rows(lengths, config.dim)
        for kind, lengths in (("clips", clips), ("words", words))
        for stream in ("visual", "audio")
    }
    masks = {
        f"{kind}_mask": np.arange(max(lengths)) < np.array(lengths)[:, None]
        for kind, lengths in (("clip", clips), ("word", words))
    }
    backend.run("grounder", draw(config, "grounder", len(clips), 16, 9, seed, garbage=1e4))
    mixed = {
        name: [on_host(one) if row in host else one for row, one in enumerate(each)] for name, each in kept.items()
    }
    copied = {name: [on_host(one) for one in each] for name, each in kept.items()}
    padded = {name: stacked(each) for name, each in copied.items()}
    found = [backend.run("grounder", feeds | masks) for feeds in (kept, mixed, copied, padded)]
    for other in found[1:]:
        for name, values in found[0].items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)
