"""The GRU layer as it is trained on a GPU, against autograd over the float64 reference."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from img_deploy.benchmarks.on_gpu.clock import Clock
from img_deploy.benchmarks.on_gpu.network import FULL, TINY
from img_deploy.benchmarks.on_gpu.training import time_training
from img_deploy.kernels.bigru import bigru, gradient, reference
from img_deploy.kernels.interpreted import interpreting

NAMES = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh")
WIDTH = 5
DEVICE = "cpu" if interpreting() else "cuda"


def arguments(stacks: int, hidden: int, length: int, lengths: list[int], dtype: torch.dtype = torch.float32) -> list:
    """Those of the op, of the size that a trained network has."""
    generator = torch.Generator().manual_seed(hidden + length)

    def draw(*shape: int, scale: float) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(DEVICE, dtype).requires_grad_()

    gates = stacks, 2, 3 * hidden
    return [
        draw(len(lengths), length, stacks, WIDTH, scale=1.0),
        torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        draw(*gates, WIDTH, scale=WIDTH**-0.5),
        draw(*gates, hidden, scale=hidden**-0.5),
        draw(*gates, scale=0.3),
        draw(*gates, scale=0.3),
    ]


def outcome(layer: Callable[..., Tensor], args: list, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """The states, and the gradients of all that is learned from one and the same gradient of the states, in float64."""
    given = [arg.detach().to(dtype).requires_grad_() if arg.is_floating_point() else arg for arg in args]
    out = layer(*given)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
    grads = torch.autograd.grad(out, [arg for arg in given if arg.requires_grad], upstream)
    return out.detach().double(), [grad.double() for grad in grads]


def check(args: list) -> None:
    """Gradients to 1e-5 of their largest: float32 sums in another order, over all steps and samples."""
    wanted, found = outcome(reference.bigru, args, torch.float64), outcome(gradient.by_kernels, args, torch.float32)
    torch.testing.assert_close(found[0], wanted[0], atol=2e-5, rtol=0)
    for name, want, got in zip(NAMES, wanted[1], found[1], strict=True):
        atol = 1e-5 * max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got, want, atol=atol, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@given(st.data(), st.integers(1, 3), st.integers(1, 20), st.integers(1, 9))
@settings(max_examples=20, deadline=None, database=None)
def test_gradients(data: st.DataObject, stacks: int, hidden: int, length: int) -> None:
    """A step, direction, stack, gate or length goes wrong, and another network than the evaluated one is trained."""
    check(arguments(stacks, hidden, length, data.draw(st.lists(st.integers(0, length), min_size=1, max_size=4))))


@pytest.mark.parametrize(("stacks", "hidden", "length"), [(3, 64, 16), (1, 128, 31), (1, 100, 1), (1, 64, 64)])
def test_gradients_at_the_network_s_sizes(stacks: int, hidden: int, length: int) -> None:
    """A width whose weights are cut into many pieces goes wrong, or an error grows over the steps."""
    check(arguments(stacks, hidden, length, [length, 0, length // 2]))


def test_lengths_beyond_the_tensor() -> None:
    """A length above L or below 0 is another than the reference takes it for."""
    check(arguments(1, 16, 4, [9, -2, 4]))


def test_nothing_to_do() -> None:
    """An empty batch or a batch without clips launches an empty grid."""
    for length, lengths in ((4, []), (0, [0, 0])):
        for grad in outcome(gradient.by_kernels, arguments(2, 16, length, lengths), torch.float32)[1]:
            assert not grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_recurrence_in_float32(dtype: torch.dtype) -> None:
    """Mixed precision: rounding adds up over the steps, or a gradient comes in another dtype than its parameter."""
    args = arguments(2, 16, 9, [9, 4], dtype)
    out = gradient.by_kernels(*args)
    assert out.dtype == dtype
    grads = torch.autograd.grad(out.sum(), [arg for arg in args if arg.requires_grad])
    assert {grad.dtype for grad in grads} == {dtype}
    step = 2.0**-8 if dtype == torch.bfloat16 else 2.0**-11
    torch.testing.assert_close(out.double(), outcome(reference.bigru, args, torch.float64)[0], atol=2 * step, rtol=0)


def test_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on a GPU is not the training that is tested on a CPU."""
    steps, calls = gradient.by_kernels, []
    monkeypatch.setattr(bigru, "trained", lambda *args: calls.append(args) or steps(*args))
    assert time_training(2, 4, Clock(DEVICE))["passed"]
    layers = (TINY if DEVICE == "cpu" else FULL).gru_layers + 1
    assert len(calls) >= 2 * layers  # the step that is compared, and one that is timed
