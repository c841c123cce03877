"""What a captured run asks of CUDA, and in which order. No GPU: streams and events note what they are asked."""

import numpy as np
import pytest
import torch

from img_deploy.benchmarks.on_gpu.network import GRAPHS, TINY, Served, draw_feeds, random_network
from img_deploy.model.graphs import PAIR
from img_deploy.runtime.backends.protocol import on_host
from img_deploy.runtime.backends.triton import backend as triton_backend
from img_deploy.runtime.backends.triton import captured_run
from img_deploy.runtime.backends.triton.backend import TritonBackend
from img_deploy.runtime.backends.triton.captured_run import CapturedRun, CaptureStream
from img_deploy.runtime.backends.triton.packed_network import PackedNetwork

KIND = {"video_encoder": "video", "query_encoder": "query", "grounder": "pairs"}


@pytest.fixture
def told(monkeypatch):
    """What CUDA was asked, in order. A replay computes anew into the memory of the one before, as a graph does."""
    told: list[str] = []
    at = {"current": None}

    class Stream:
        cuda_stream = device_index = 0

        def __init__(self, name=None):
            self.name = name or f"stream {sum(line == 'stream' for line in told)}"
            if name is None:
                told.append("stream")

        def wait_event(self, event):
            told.append(f"{self.name} waits for {event.last}")

    class Event:
        last = None

        def record(self, stream):
            self.last = f"event {sum(line.startswith('record') for line in told)} of {stream.name}"
            told.append(f"record {self.last}")

        def synchronize(self):
            told.append(f"host waits for {self.last}")

    def captured(run, _stream):
        results = None if (first := run()) is None else first.clone()

        class Graph:
            def replay(self):
                told.append(f"replay on {at['current'].name}")
                new = run()
                if results is not None:
                    results.copy_(new)

        return Graph(), results

    current = at["current"] = Stream("current")
    for name, fake in {
        "Stream": Stream,
        "Event": Event,
        "graph_pool_handle": lambda: None,
        "current_device": lambda: 0,
        "current_stream": lambda _device=None: at["current"],
        "set_stream": lambda stream: at.update(current=stream),
        "set_device": lambda _device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(captured_run, "captured", captured)
    shared = "memory shared with {}".format
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: told.append(shared(stream.name)))
    yield told
    assert at["current"] is current, "the caller's stream was not restored"


def backend_of(precision="fp32"):
    packed = PackedNetwork(random_network(TINY), precision, "cpu")

    def on_new_stream():
        stream = CaptureStream()
        return lambda spec, bucket: CapturedRun(packed, spec, bucket, stream)

    return TritonBackend(packed, {"clips": TINY.max_clips, "words": 20, "chars": 16}, on_new_stream)


def test_a_pair_in_one_graph_is_one_replay(told):
    """A pair that is asked once would take three launches and three waits."""
    backend = backend_of()
    feeds = draw_feeds(TINY, (4,), 4)
    told.clear()
    backend.run(PAIR, feeds)
    (replay,) = (line for line in told if line.startswith("replay"))
    pairs = replay.removeprefix("replay on ")
    assert told == ["host waits for None", replay, f"record event 0 of {pairs}", f"host waits for event 0 of {pairs}"]


def test_the_host_waits_once_for_each_graph(told):
    """The host would read results that are not there yet, or the grounder clips that its caller is still copying."""
    backend = backend_of()
    feeds = known = draw_feeds(TINY, (4, 2), 4)
    told.clear()
    for graph in GRAPHS:
        known = known | backend.run(graph, known)
    video, query, pairs = (line.removeprefix("replay on ") for line in told if line.startswith("replay"))
    assert len({video, query, pairs}) == 3
    assert told == [
        "host waits for None",
        f"replay on {video}",
        f"record event 0 of {video}",
        "memory shared with current",
        f"host waits for event 0 of {video}",
        "host waits for None",
        f"replay on {query}",
        f"record event 1 of {query}",
        "memory shared with current",
        f"host waits for event 1 of {query}",
        "host waits for None",
        "record event 2 of current",
        f"{pairs} waits for event 2 of current",
        f"replay on {pairs}",
        f"record event 3 of {pairs}",
        f"host waits for event 3 of {pairs}",
    ]
    told.clear()
    backend.run("video_encoder", feeds)
    assert told[0] == f"host waits for event 0 of {video}", "memory that a copy may still read would be filled"


@pytest.mark.usefixtures("told")
def test_a_later_run_does_not_change_what_was_given():
    """An encoded video would become the next one: both lie in the memory of one graph."""
    backend = backend_of()
    one, other = (draw_feeds(TINY, (4,), 4, seed) for seed in (1, 2))
    first = backend.run("video_encoder", one)
    before = {name: on_host(first[name]).copy() for name in ("visual_clips", "audio_clips")}
    second = backend.run("video_encoder", other)
    for name, values in before.items():
        np.testing.assert_array_equal(on_host(first[name]), values)
        assert not np.array_equal(on_host(second[name]), values)


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_pair_through_captured_graphs_gives_what_it_gives_without(precision):
    """A copy would be missing from the captured graph, or a result be read before it is there."""
    backend, plain = backend_of(precision), Served(random_network(TINY), precision, "cpu").backend
    for lengths in ((4, 2, 1), (3,)):
        feeds = draw_feeds(TINY, lengths, max(lengths), len(lengths))
        found, expected = dict(feeds), dict(feeds)
        for graph in (*GRAPHS, PAIR):
            found |= backend.run(graph, found)
            expected |= plain.run(graph, expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(on_host(found[name]), on_host(values), err_msg=name)


def test_a_graph_that_runs_is_not_let_go_of(told, monkeypatch):
    """A graph that makes room for another would be freed while the GPU is in the midst of it."""
    monkeypatch.setattr(triton_backend, "GRAPHS_KEPT", 1)
    backend = backend_of()
    backend.run("video_encoder", draw_feeds(TINY, (4,), 4))
    ran = told[-1].removeprefix("host waits for ")
    told.clear()
    backend.run("video_encoder", draw_feeds(TINY, (4, 4), 4))
    assert told[0] == f"host waits for {ran}"
    told.clear()
    backend.close()
    assert any(line.startswith("host waits for event") for line in told)
