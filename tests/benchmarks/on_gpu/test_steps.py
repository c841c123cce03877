"""The GPU benchmark's steps: what they check, and that the versions which are timed compute the same network."""

import pytest
import torch

from img_deploy.benchmarks.on_gpu import checks, network
from img_deploy.benchmarks.on_gpu.clock import Clock
from img_deploy.benchmarks.on_gpu.network import TINY, Eager, Served, draw_feeds, on_device, ours, random_network
from img_deploy.benchmarks.on_gpu.op_calls import OpCall, op_calls
from img_deploy.benchmarks.on_gpu.training import time_training
from img_deploy.kernels.dispatch import OP_NAMES

CLOCK = Clock("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """At these sizes a second thread does nothing but wait."""
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(kept)


def test_every_op_is_called_as_the_network_calls_it():
    """A kernel would be checked and timed on arguments that no answer needs, or not at all."""
    calls = op_calls(TINY, "fp16", "cpu", (4, 0, 2), 4)
    assert {call.op for call in calls} == set(OP_NAMES)
    assert len({(call.op, str(call)) for call in calls if call.op != "best_spans"}) == len(calls) - 2
    for call in calls:
        outputs = call.reference()
        for one in outputs if isinstance(outputs, tuple) else (outputs,):
            assert one.isfinite().all(), call
    assert {call.op for call in op_calls(TINY, "fp32", "cpu", (4,), 4, "bigru")} == {"bigru"}


@pytest.mark.parametrize("op", ["global_fusion", "best_spans"])
def test_a_wrong_kernel_fails(op, monkeypatch):
    """A kernel that computes something else, or leaves values unwritten, would be timed."""

    def passed(change):
        monkeypatch.setattr(OpCall, "kernel", lambda call: change(call.reference()))
        return checks.check_op(op, "fp32", CLOCK)["passed"]

    spans = op == "best_spans"
    assert passed(lambda out: out)
    assert not passed(lambda out: (out[0], torch.empty_like(out[1])) if spans else torch.empty_like(out))
    assert not passed(lambda out: (out[0] + 1, out[1]) if spans else out + 1e-4)


def test_versions_compute_the_same_network():
    """A version would be fast because it leaves something out."""
    weights = random_network(TINY)
    feeds = draw_feeds(TINY, (4, 4), 4, 3)
    inputs = on_device(feeds, "fp32", "cpu")
    exact = Eager(weights, "fp32", "cpu")(inputs)
    found = [ours(weights, "fp32", "cpu", inputs)(inputs)]
    found += [network.Chain(network.unpadded_network(weights))(inputs)]  # what torch.compile is given
    served = Served(weights, "fp32", "cpu")(feeds)
    found += [[torch.from_numpy(served[name]) for name in network.OUTPUTS]]
    for version in found:
        for got, wanted in zip(version, exact, strict=True):
            torch.testing.assert_close(got, wanted, atol=3e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_accuracy_is_held_to_what_the_precision_loses(precision, monkeypatch):
    """Ours would pass although it is wrong, or fail although it is nearer than PyTorch itself."""
    found = checks.check_network(precision, CLOCK)
    assert found["passed"]
    assert found["ours"]["same_span"] > 0.5
    call = network.Replayed.__call__

    def off(self, inputs):
        start, *rest = call(self, inputs)
        return (start + 2 * found["allowed"], *rest)

    monkeypatch.setattr(network.Replayed, "__call__", off)
    assert not checks.check_network(precision, CLOCK)["passed"]


def test_both_ways_of_a_training_step_are_held_to_one_gradient(monkeypatch):
    """A step would be faster because it learns less."""
    from img_deploy.kernels.bigru import bigru, gradient

    def less(x, lengths, weight_ih, weight_hh, *biases):
        return gradient.bigru(
            x, lengths, weight_ih, weight_hh.detach() + 0.9 * (weight_hh - weight_hh.detach()), *biases
        )

    monkeypatch.setattr(bigru, "trained", less)
    found = time_training(2, 4, CLOCK)
    assert found["losses"]["ours"] == pytest.approx(found["losses"]["published"], rel=1e-5)
    assert found["gradient_difference"] == pytest.approx(0.1, rel=1e-3)
    assert not found["passed"]


def test_both_ways_of_a_training_step_are_held_to_one_loss(monkeypatch):
    """A step would be faster because it trains something else."""
    from img_deploy.benchmarks.on_gpu import training

    assert time_training(2, 4, CLOCK)["passed"]
    real = training.as_published

    def changed(model):
        model = real(model)
        for parameter in model.predictor.parameters():
            parameter.data *= 2
        return model

    monkeypatch.setattr(training, "as_published", changed)
    assert not time_training(2, 4, CLOCK)["passed"]
