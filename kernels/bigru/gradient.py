"""The GRU layer for training, with a hand-written gradient: a loop over time on a CPU, kernels on a GPU.

Autograd over the plain loop records some twenty small operations per step. In the loop here a step is seven forward and
four backward: what a gate's gradient owes to the state's is linear, so its factors are computed for all steps at once.
On a GPU all steps are one launch forward and one backward (``kernel.py``, ``backward.py``), and every gate is computed
again from the states. Groups G (stack and, in it, direction) come first everywhere.
"""

from typing import Any

import torch
from torch import Tensor

from img_deploy.kernels.linear_gradient import grouped_linear


def bigru(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Same as :func:`img_deploy.kernels.bigru.reference.bigru`, faster to differentiate."""
    if _has_kernels(x, weight_hh):
        return by_kernels(x, lengths, weight_ih, weight_hh, bias_ih, bias_hh)
    batch, length, stacks, width = x.shape
    hidden = weight_hh.shape[-1]
    forward = x.permute(2, 1, 0, 3)  # [S, L, B, I]
    both = torch.stack([forward, forward.flip(1)], dim=1).view(2 * stacks, length * batch, width)
    gates = grouped_linear(both, weight_ih.flatten(0, 1), bias_ih.flatten(0, 1))  # [2S, L*B, 3H]
    real = torch.arange(length, device=x.device)[:, None] < lengths  # [L, B]
    keep = torch.stack([real, real.flip(0)]).repeat(stacks, 1, 1)[..., None]  # [2S, L, B, 1]
    states = RecurrenceFunction.apply(
        gates.view(2 * stacks, length, batch, 3 * hidden), keep, weight_hh.flatten(0, 1), bias_hh.flatten(0, 1)
    )
    out = states.view(stacks, 2, length, batch, hidden)
    return torch.cat([out[:, 0], out[:, 1].flip(1)], dim=-1).to(x.dtype).permute(2, 1, 0, 3)


def by_kernels(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """The same by one launch for all steps, and one more for their gradients; H at most ``kernel.LARGEST_HIDDEN``."""
    from img_deploy.kernels.bigru.kernel import input_gates

    return KernelFunction.apply(input_gates(x, weight_ih), lengths, weight_hh, bias_ih, bias_hh).to(x.dtype)


def _has_kernels(x: Tensor, weight_hh: Tensor) -> bool:
    if not x.is_cuda or x.dtype == torch.float64:
        return False
    from img_deploy.kernels.bigru.kernel import LARGEST_HIDDEN

    return weight_hh.shape[-1] <= LARGEST_HIDDEN


class RecurrenceFunction(torch.autograd.Function):
    """The loop over time of G independent GRUs with its gradient; once differentiable.

    ``gates`` [G, L, B, 3H], ``keep`` [G, L, B, 1] bool, ``weight_hh`` [G, 3H, H], ``bias_hh`` [G, 3H]: as in
    :func:`img_deploy.kernels.bigru.reference.recur`, but for the groups coming first. Returns the states
    [G, L, B, H].
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, keep: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
        wide = torch.promote_types(gates.dtype, torch.float32)
        gates_in, mask = gates.to(wide), keep.to(wide)
        groups, length, batch, _ = gates.shape
        hidden = weight_hh.shape[-1]
        weight, bias = weight_hh.to(wide).transpose(1, 2), bias_hh.to(wide)[:, None]
        states = gates_in.new_zeros(groups, length + 1, batch, hidden)
        product = torch.empty_like(gates_in)
        reset_update = gates_in.new_empty(groups, length, batch, 2 * hidden)
        candidate = gates_in.new_empty(groups, length, batch, hidden)
        # Views of every step, made at once: selecting them one by one would cost as much as the arithmetic.
        at = states.unbind(1)
        steps = zip(
            product.unbind(1),
            product[..., : 2 * hidden].unbind(1),
            product[..., 2 * hidden :].unbind(1),
            gates_in[..., : 2 * hidden].unbind(1),
            gates_in[..., 2 * hidden :].unbind(1),
            reset_update.unbind(1),
            reset_update[..., :hidden].unbind(1),
            reset_update[..., hidden:].unbind(1),
            candidate.unbind(1),
            mask.unbind(1),
            at,
            at[1:],
            strict=False,
        )
        for whole, gated, recalled, gates_ru, gates_n, both, reset, update, new, real, before, after in steps:
            torch.baddbmm(bias, before, weight, out=whole)
            torch.add(gates_ru, gated, out=both).sigmoid_()
            torch.addcmul(gates_n, reset, recalled, out=new).tanh_()
            torch.lerp(new, before, update, out=after).mul_(real)
        ctx.save_for_backward(mask, weight_hh, states, reset_update, candidate, product[..., 2 * hidden :])
        ctx.dtypes = gates.dtype, bias_hh.dtype
        return states[:, 1:].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        mask, weight_hh, states, reset_update, candidate, recalled = ctx.saved_tensors
        reset, update = reset_update.chunk(2, dim=-1)
        before = states[:, :-1]
        through, factors, stay = _factors(reset, update, candidate, recalled, before, mask)
        weight = weight_hh.to(states.dtype)
        inner = torch.empty_like(factors)  # gradient of the recurrent product
        total = torch.empty_like(candidate)  # gradient of each state
        carry = torch.zeros_like(candidate[:, 0])
        steps = zip(
            grad.unbind(1),
            total.unbind(1),
            total.unsqueeze(-2).unbind(1),
            factors.unbind(1),
            inner.unbind(1),
            inner.flatten(-2).unbind(1),
            stay.unbind(1),
            strict=True,
        )
        for upstream, state, state_wide, factor, gate, gate_flat, kept in reversed(list(steps)):
            torch.add(upstream, carry, out=state)
            torch.mul(factor, state_wide, out=gate)
            carry = torch.baddbmm(kept * state, gate_flat, weight)
        outer, grad_weight, grad_bias = _gradients(inner, total, through, before)
        gates_dtype, bias_dtype = ctx.dtypes
        return outer.to(gates_dtype), None, grad_weight.to(weight_hh.dtype), grad_bias.to(bias_dtype)


class KernelFunction(torch.autograd.Function):
    """:func:`img_deploy.kernels.bigru.kernel.gru_recurrence` in float32 with its gradient; once differentiable."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, lengths: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
    ) -> Tensor:
        from img_deploy.kernels.bigru.kernel import gru_recurrence

        states = gru_recurrence(gates.float(), lengths, weight_hh.float(), bias_ih.float(), bias_hh.float())
        ctx.save_for_backward(gates, lengths, weight_hh, bias_ih, bias_hh, states)
        return states  # [B, L, S, 2H]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:
        from img_deploy.kernels.bigru.backward import backward_steps

        gates, lengths, weight_hh, bias_ih, bias_hh, states = ctx.saved_tensors
        batch, length, stacks, width = states.shape
        hidden = width // 2

        def by_group(states: Tensor) -> Tensor:
            return states.view(batch, length, stacks, 2, hidden).permute(2, 3, 0, 1, 4)  # [S, 2, B, L, H]

        after, before = by_group(states), states.new_zeros(stacks, 2, batch, length, hidden)
        before[:, 0, :, 1:] = after[:, 0, :, :-1]
        before[:, 1, :, :-1] = after[:, 1, :, 1:]
        before, weight = before.flatten(0, 1), weight_hh.float().flatten(0, 1)
        recurrent = torch.baddbmm(bias_hh.float().view(-1, 1, 3 * hidden), before.flatten(1, 2), weight.transpose(1, 2))
        recurrent = recurrent.view(2 * stacks, batch, length, 3 * hidden)
        given = gates.permute(0, 3, 1, 2, 4).flatten(0, 1) + bias_ih.float().view(-1, 1, 1, 3 * hidden)
        reset, update = torch.sigmoid(given + recurrent)[..., : 2 * hidden].chunk(2, dim=-1)
        recalled = recurrent[..., 2 * hidden :]
        candidate = torch.tanh(given[..., 2 * hidden :] + reset * recalled)
        mask = (torch.arange(length, device=grad.device) < lengths[:, None])[..., None].float()  # [B, L, 1]
        through, factors, stay = _factors(reset, update, candidate, recalled, before, mask)
        inner, total = backward_steps(by_group(grad.contiguous()).flatten(0, 1), factors, stay, weight)
        outer, grad_weight, grad_bias = _gradients(inner, total, through, before)
        return (
            outer.unflatten(0, (stacks, 2)).permute(0, 2, 3, 1, 4).to(gates.dtype),
            None,
            grad_weight.unflatten(0, (stacks, 2)).to(weight_hh.dtype),
            outer.sum((1, 2)).unflatten(0, (stacks, 2)).to(bias_ih.dtype),
            grad_bias.unflatten(0, (stacks, 2)).to(bias_hh.dtype),
        )


def _factors(
    reset: Tensor, update: Tensor, candidate: Tensor, recalled: Tensor, before: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradient of each state is multiplied by.

    Args:
        reset, update, candidate: the gates; recalled: n's part of the product with the weights, with its bias.
        before: the states that the steps begin with; all [..., H].
        mask: broadcastable, 0 where the sequence has ended, else 1.

    Returns:
        For the gradient of tanh's argument [..., H], of the product [..., 3, H], of the state before besides [..., H].
    """
    stay = update * mask
    through = torch.ops.aten.tanh_backward(mask - stay, candidate)
    factors = torch.stack(
        [
            torch.ops.aten.sigmoid_backward(through * recalled, reset),
            torch.ops.aten.sigmoid_backward((before - candidate) * mask, update),
            through * reset,
        ],
        dim=-2,
    )
    return through, factors, stay


def _gradients(inner: Tensor, total: Tensor, through: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those of gates [G, *, *, 3H], weight_hh [G, 3H, H] and bias_hh [G, 3H].

    Args:
        inner: [G, *, *, 3, H], gradient of the product; total: [G, *, *, H], of the states.
        through, before: as in :func:`_factors`.
    """
    outer = torch.cat([inner[..., :2, :].flatten(-2), through * total], dim=-1)
    flat = inner.flatten(-2).flatten(1, 2)  # [G, N, 3H]
    return outer, flat.transpose(1, 2) @ before.flatten(1, 2), flat.sum(1)
