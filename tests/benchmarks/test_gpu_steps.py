"""What the GPU benchmark's children do, as far as a machine without a GPU can show it."""

from contextlib import nullcontext
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from img_deploy.benchmarks.on_gpu import kernel_steps, network_steps, network_versions
from img_deploy.benchmarks.on_gpu.device import Cpu, Gpu
from img_deploy.benchmarks.on_gpu.kernel_inputs import (
    FORMS,
    FULL,
    TINY,
    KernelCase,
    arguments,
    bytes_of,
    cases,
    flops_of,
    reference_of,
)
from img_deploy.benchmarks.on_gpu.network_steps import NetworkCase, accuracy, time_network
from img_deploy.benchmarks.on_gpu.network_versions import Compiled
from img_deploy.benchmarks.on_gpu.plan import STEPS as NAMES
from img_deploy.benchmarks.on_gpu.plan import WAYS, stages
from img_deploy.benchmarks.on_gpu.recurrence import RecurrenceCase
from img_deploy.benchmarks.on_gpu.steps import STEPS


class FakeCuda:
    """As much of ``torch.cuda`` as timing uses; a replay takes 6 ms by its events."""

    def __init__(self):
        self.captured, self.replays, self.now, self.capturing = 0, 0, 0.0, False
        fake = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                assert not fake.capturing
                self.at = fake.now

            def synchronize(self):
                assert not fake.capturing

            def elapsed_time(self, end):
                return end.at - self.at

        class Graph:
            def replay(self):
                fake.replays += 1
                fake.now += 6.0

        class Capture:
            def __init__(self, graph, stream):
                assert isinstance(graph, Graph)
                assert stream is not None

            def __enter__(self):
                fake.capturing = True
                fake.captured = 0

            def __exit__(self, *_):
                fake.capturing = False

        self.Event, self.CUDAGraph, self.graph = Event, Graph, Capture
        self.Stream = lambda: SimpleNamespace(wait_stream=lambda _other: None)
        self.stream = lambda _stream: nullcontext()
        self.current_stream = lambda: None
        self.current_device = lambda: 0
        self.get_device_properties = lambda _device: SimpleNamespace(L2_cache_size=50 << 20)

    def call(self):
        self.captured += self.capturing
        if not self.capturing:
            self.now += 3.0

    def synchronize(self):
        assert not self.capturing


def test_a_call_is_timed_by_the_replays_of_many():
    """A figure would be that of a whole graph, of the capture, or of the host."""
    fake = FakeCuda()
    found = Gpu(fake).graphed([fake.call] * 30, 0.01)
    assert fake.captured == 30
    assert found["p50"] == pytest.approx(6.0 / 30)
    assert found["count"] == fake.replays - 1 >= 5


def test_launched_calls_are_timed_one_after_the_other():
    """Launches would be captured too, and look as if they cost nothing."""
    fake = FakeCuda()
    assert Gpu(fake).launched([fake.call] * 4, 0.01)["p50"] == pytest.approx(3.0)
    assert fake.captured == fake.replays == 0
    assert Gpu(fake).throughput([fake.call] * 4, 0.01)["p50"] == pytest.approx(3.0)
    assert Gpu(fake).latency([fake.call] * 4, 0.01)["p50"] >= 0


def test_inputs_rotate_beyond_the_cache():
    """Every run after the first would read from the L2 cache."""
    device = Gpu(FakeCuda())
    for nbytes in (300 << 10, 5 << 20, 200 << 20):
        count = device.sets(nbytes)
        assert count * nbytes >= 2 * 50 << 20
        assert (count - 1) * nbytes < (2 * 50 << 20) + nbytes or count == 2
    assert device.sets(1) == 512


def test_every_case_of_the_plan_is_one_that_its_step_takes():
    """The first run on a GPU would end in a TypeError."""
    kinds = {"kernels": KernelCase, "compiled_kernels": KernelCase, "recurrence": RecurrenceCase}
    kinds |= {"network": NetworkCase, "compiled_network": NetworkCase, "profile": NetworkCase}
    assert set(STEPS) == set(NAMES)
    assert WAYS == Compiled.WAYS
    for kind in ("cuda", "cpu"):
        for stage in stages(kind):
            for case in stage.cases:
                if stage.step in kinds:
                    assert asdict(kinds[stage.step](**case)) == case


@pytest.mark.parametrize("case", list(cases([(3, 5)], ["fp16"])), ids=lambda case: f"{case.op} {case.form}")
def test_ops_are_called_as_the_network_calls_them(case):
    """A kernel would be timed on arguments in another order, or on a work that is counted wrongly."""
    generator = torch.Generator().manual_seed(0)
    given = arguments(case, TINY, "cpu", generator, [5, 0, 2])
    out = reference_of(case.op)(*given)
    outputs = out if isinstance(out, tuple) else (out,)
    assert all(one.isfinite().all() for one in outputs)
    assert bytes_of(given) > 0
    assert flops_of(case, TINY) > 0
    twice = KernelCase(case.op, case.form, 6, 5, case.dtype)
    assert flops_of(twice, TINY) == 2 * flops_of(case, TINY)


def test_flops_are_those_of_the_products():
    """A roofline position would be off by what was counted wrongly."""
    case = KernelCase("conv_block", "2 layers", 1, 128, "fp16")
    assert flops_of(case, FULL) == 2 * 2 * 128 * 128 * (128 + 7)
    case = KernelCase("bigru", "1 wide stack", 1, 128, "fp16")
    assert flops_of(case, FULL) == 2 * 128 * 2 * 384 * (384 + 128)


@pytest.mark.parametrize("op", ["global_fusion", "best_spans"])
def test_a_wrong_kernel_fails(op, monkeypatch):
    """A kernel that computes something else, or leaves values unwritten, would be timed."""
    reference = reference_of(op)

    def with_kernel(kernel):
        monkeypatch.setattr(kernel_steps, "_kernels", lambda *_: [kernel])
        return kernel_steps.check(op, "fp32", FORMS[op], Cpu())

    assert with_kernel(reference)["passed"]
    unwritten = {
        "global_fusion": lambda *given: torch.empty_like(given[0]),
        "best_spans": lambda *given: (reference(*given)[0], torch.empty_like(reference(*given)[1])),
    }
    found = with_kernel(unwritten[op])
    assert not found["passed"]
    slightly_off = {
        "global_fusion": lambda *given: reference(*given) + 1e-4,
        "best_spans": lambda *given: (reference(*given)[0] + 1, reference(*given)[1]),
    }
    assert not with_kernel(slightly_off[op])["passed"]


@pytest.fixture
def references_for_kernels(monkeypatch):
    """Ops run their references on the CPU, which takes no interpreter."""
    for module in (network_versions, network_steps):
        monkeypatch.setattr(module, "kernels_on_cpu", nullcontext, raising=False)
    monkeypatch.setattr(network_steps, "interpreted_if_cpu", lambda _device: nullcontext())


@pytest.mark.usefixtures("references_for_kernels")
@pytest.mark.parametrize("version", ["eager", "ours"])
def test_every_version_of_the_network_runs(version):
    """A version would fail on the first GPU it sees, or give a figure on a CPU."""
    record = time_network(NetworkCase(version, "fp32", 2, 6), Cpu())
    assert set(record) == {"latency", "throughput"} | ({"end_to_end"} if version == "ours" else set())
    assert set(record.values()) == {None}


@pytest.mark.usefixtures("references_for_kernels")
def test_versions_compute_the_same_network():
    """A version would be fast because it leaves something out."""
    device = Cpu()
    config = network_versions.NetworkSizes.of(device).config
    network = network_versions.random_network(config)
    inputs = network_versions.on_device(network_versions.draw_feeds(config, (6, 6), 6, 3), "fp32", "cpu")
    exact = network_versions.Eager(network, "fp32", device)(inputs)
    ours = network_versions.Ours(network, "fp32", device, inputs)
    for version in (ours, Compiled(network, "fp32", device, inputs, WAYS[0])):
        for got, wanted in zip(version(inputs), exact, strict=True):
            torch.testing.assert_close(got, wanted, atol=3e-5, rtol=0)


@pytest.mark.usefixtures("references_for_kernels")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accuracy_is_held_to_what_the_precision_loses(precision, monkeypatch):
    """Ours would pass although it is wrong, or fail although it is nearer than PyTorch itself."""
    found = accuracy(precision, Cpu())
    assert found["passed"]
    assert found["ours"]["same_span"] > 0.5
    call = network_versions.Ours.__call__

    def off(self, inputs):
        start, *rest = call(self, inputs)
        return (start + 2 * found["allowed"], *rest)

    monkeypatch.setattr(network_versions.Ours, "__call__", off)
    assert not accuracy(precision, Cpu())["passed"]
