"""Linear layers by oneDNN against PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from img_deploy.kernels import linear_gradient
from img_deploy.kernels.linear_gradient import grouped_linear, linear

BIG = (1024, 128, 96)
"""Rows, inputs and outputs of a product that is worth it."""


def drawn(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options).requires_grad_()


def gradients(out, inputs):
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return torch.autograd.grad(out, inputs, upstream)


def is_fast(out):
    return "LinearFunction" in type(out.grad_fn).__name__


@pytest.mark.parametrize("lead", [(1024,), (16, 64), (2, 8, 64)])
def test_values_and_gradients_equal_pytorch_s(lead):
    """A transposed weight or a forgotten sum would train another network than the one evaluated."""
    _, width, outputs = BIG
    inputs = drawn(*lead, width, seed=1), drawn(outputs, width, seed=2), drawn(outputs, seed=3)
    found, wanted = linear(*inputs), F.linear(*inputs)
    assert is_fast(found)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    for name, got, want in zip(
        ("x", "weight", "bias"), gradients(found, inputs), gradients(wanted, inputs), strict=True
    ):
        torch.testing.assert_close(got, want, atol=5e-4, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_rows_that_are_not_contiguous():
    """Slices and transposes reach the layers: strides must not be taken for sizes."""
    rows, width, outputs = BIG
    x = drawn(width, rows).t()
    weight, bias = drawn(outputs, 2 * width)[:, ::2], drawn(outputs)
    found, wanted = linear(x, weight, bias), F.linear(x, weight, bias)
    assert is_fast(found)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    got, want = (torch.autograd.grad(out.sum(), (x, weight, bias)) for out in (found, wanted))
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-4)


def test_features_need_no_gradient():
    """The first layer's input is data: its gradient would cost as much as the layer."""
    rows, width, outputs = BIG
    x, weight, bias = drawn(rows, width).detach(), drawn(outputs, width), drawn(outputs)
    out = linear(x, weight, bias)
    assert is_fast(out)
    out.sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(outputs, -1), atol=1e-3, rtol=1e-4)


def test_groups_are_layers_of_their_own():
    """Stacks and directions of the GRUs must not mix."""
    rows, width, outputs = BIG
    inputs = drawn(3, rows, width, seed=1), drawn(3, outputs, width, seed=2), drawn(3, outputs, seed=3)
    found = grouped_linear(*inputs)
    wanted = torch.stack([F.linear(*one) for one in zip(*(part.unbind(0) for part in inputs), strict=True)])
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    for got, want in zip(gradients(found, inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(got, want, atol=5e-4, rtol=1e-4)


def test_the_same_numbers_give_the_same_bits():
    """Training is repeatable to the bit."""
    rows, width, outputs = BIG
    runs = []
    for _ in range(2):
        inputs = drawn(rows, width, seed=1), drawn(outputs, width, seed=2), drawn(outputs, seed=3)
        out = linear(*inputs)
        runs.append((out, *gradients(out, inputs)))
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


def test_all_else_is_pytorch_s(monkeypatch):
    """Small products, other types, inference, autocast and builds without oneDNN keep PyTorch's way."""
    rows, width, outputs = BIG
    big = drawn(rows, width), drawn(outputs, width), drawn(outputs)
    assert not is_fast(linear(drawn(4, 8), drawn(3, 8), drawn(3)))
    assert not is_fast(linear(*(part.double() for part in big)))
    with torch.no_grad():
        torch.testing.assert_close(linear(*big), F.linear(*big))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(*big).dtype == torch.bfloat16
    monkeypatch.setattr(linear_gradient, "_onednn", lambda: False)
    assert not is_fast(linear(*big))
    assert grouped_linear(*(part[None] for part in big)).shape == (1, rows, outputs)


def test_a_trace_is_not_told_apart_by_its_sizes():
    """An export of a full-size network would fail, or fix how many samples it takes."""
    width = 1024
    weight, bias = torch.randn(width, width), torch.randn(width)

    class Layer(torch.nn.Module):
        def forward(self, x):
            return linear(x, weight, bias)

    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    with torch.no_grad():
        program = torch.export.export(Layer(), (torch.ones(3, width),), dynamic_shapes=({0: batch},))
    (size,) = program.range_constraints.values()
    assert (size.lower, size.upper) == (1, 1 << 20)
