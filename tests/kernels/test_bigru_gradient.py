"""The GRU layer as it is trained on a CPU, against autograd over the plain loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.kernels.bigru import gradient, reference


def arguments(stacks, batch, length, hidden, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).mul_(0.5).requires_grad_()

    lengths = torch.randint(0, length + 1, (batch,), generator=generator, dtype=torch.int32)
    weights = draw(stacks, 2, 3 * hidden, 5), draw(stacks, 2, 3 * hidden, hidden)
    return draw(batch, length, stacks, 5), lengths, *weights, draw(stacks, 2, 3 * hidden), draw(stacks, 2, 3 * hidden)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_values_and_gradients_equal_autograd_s(stacks, batch, length, hidden, seed):
    """A wrong factor in the backward would train a network that is not the one evaluated."""
    args = arguments(stacks, batch, length, hidden, seed)
    learned = [arg for arg in args if arg.requires_grad]
    plain, fast = reference.bigru(*args), gradient.bigru(*args)
    torch.testing.assert_close(fast, plain, atol=1e-12, rtol=0)
    upstream = torch.randn(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(seed + 1))
    wanted, found = (torch.autograd.grad(out, learned, upstream) for out in (plain, fast))
    for name, want, got in zip(("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh"), wanted, found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-10, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_dtypes_keep_their_gradients_dtypes(dtype):
    """Mixed precision: a gradient in another dtype than its parameter is an error deep in the optimiser."""
    args = arguments(2, 3, 6, 4, 0, dtype)
    learned = [arg for arg in args if arg.requires_grad]
    out = gradient.bigru(*args)
    assert out.dtype == dtype
    for grad, value in zip(torch.autograd.grad(out.sum(), learned), learned, strict=True):
        assert grad.dtype == value.dtype
        assert grad.isfinite().all()


def test_a_gpu_takes_the_kernels_that_fit(monkeypatch):
    """A loop over time of 512 steps is some 6,000 launches forward and back; a wider layer fits no kernel."""
    pytest.importorskip("triton")
    calls = []
    monkeypatch.setattr(gradient, "by_kernels", lambda *args: calls.append(args))
    args = arguments(1, 2, 3, 4, 0, torch.float32)
    gradient.bigru(*args)
    assert not calls
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    gradient.bigru(*args)
    assert calls == [tuple(args)]
    gradient.bigru(*arguments(1, 2, 3, 4, 0, torch.float64))
    gradient.bigru(*arguments(1, 2, 3, 129, 0, torch.float32))
    assert len(calls) == 1


def test_packed_sequences_of_pytorch_give_the_same():
    """The definition of the op is PyTorch's packed GRU."""
    torch.manual_seed(0)
    gru = torch.nn.GRU(5, 4, batch_first=True, bidirectional=True)
    x, lengths = torch.randn(3, 7, 5), torch.tensor([7, 1, 4])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    wanted, _ = torch.nn.utils.rnn.pad_packed_sequence(gru(packed)[0], batch_first=True, total_length=7)
    stacked = [
        torch.stack([getattr(gru, f"{name}_l0"), getattr(gru, f"{name}_l0_reverse")])[None]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    found = reference.bigru(x[:, :, None], lengths.int(), *stacked)[:, :, 0]
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
