"""The GRU's loop over time with a hand-written backward, for training.

Autograd over the plain loop records some twenty small operations per step. Here a step is eight forward and four
backward: what a gate's gradient owes to the state's is linear, so its factors are computed for all steps at once.
"""

from typing import Any

import torch
from torch import Tensor

from img_deploy.kernels.bigru import reference


def bigru(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Same as :func:`img_deploy.kernels.bigru.reference.bigru`, faster to differentiate."""
    return reference.bigru(x, lengths, weight_ih, weight_hh, bias_ih, bias_hh, recurrence=RecurrenceFunction.apply)


class RecurrenceFunction(torch.autograd.Function):
    """:func:`img_deploy.kernels.bigru.reference.recur` with its gradient; once differentiable."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, keep: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
        wide = torch.promote_types(gates.dtype, torch.float32)
        gates_in, mask = gates.to(wide), keep.to(wide)
        length, groups, batch, _ = gates.shape
        hidden = weight_hh.shape[-1]
        weight, bias = weight_hh.to(wide).transpose(1, 2), bias_hh.to(wide)[:, None]
        states = gates_in.new_zeros(length + 1, groups, batch, hidden)
        reset_update = gates_in.new_empty(length, groups, batch, 2 * hidden)
        candidate = gates_in.new_empty(length, groups, batch, hidden)
        recalled = torch.empty_like(candidate)
        for step in range(length):
            product = torch.baddbmm(bias, states[step], weight)
            now = reset_update[step]
            torch.add(gates_in[step, ..., : 2 * hidden], product[..., : 2 * hidden], out=now).sigmoid_()
            recalled[step] = product[..., 2 * hidden :]
            torch.addcmul(gates_in[step, ..., 2 * hidden :], now[..., :hidden], recalled[step], out=candidate[step])
            candidate[step].tanh_()
            torch.lerp(candidate[step], states[step], now[..., hidden:], out=states[step + 1]).mul_(mask[step])
        ctx.save_for_backward(mask, weight_hh, states, reset_update, candidate, recalled)
        ctx.dtypes = gates.dtype, bias_hh.dtype
        return states[1:].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        mask, weight_hh, states, reset_update, candidate, recalled = ctx.saved_tensors
        reset, update = reset_update.chunk(2, dim=-1)
        before = states[:-1]
        through = (1 - update) * (1 - candidate * candidate) * mask  # d(tanh's argument) / d(state)
        factors = torch.stack(
            [
                through * recalled * reset * (1 - reset),
                (before - candidate) * update * (1 - update) * mask,
                through * reset,
            ],
            dim=-2,
        )  # [L, G, B, 3, H]
        stay = update * mask
        weight = weight_hh.to(states.dtype)
        inner = torch.empty_like(factors)  # gradient of the recurrent product
        total = torch.empty_like(candidate)  # gradient of each state
        carry = torch.zeros_like(candidate[0])
        for step in range(len(grad) - 1, -1, -1):
            torch.add(grad[step], carry, out=total[step])
            torch.mul(factors[step], total[step].unsqueeze(-2), out=inner[step])
            carry = torch.baddbmm(stay[step] * total[step], inner[step].flatten(-2), weight)
        outer = torch.cat([inner[..., :2, :].flatten(-2), through * total], dim=-1)  # gradient of gates
        flat = inner.flatten(-2).transpose(0, 1).flatten(1, 2)  # [G, L*B, 3H]
        grad_weight = flat.transpose(1, 2) @ before.transpose(0, 1).flatten(1, 2)
        gates_dtype, bias_dtype = ctx.dtypes
        return outer.to(gates_dtype), None, grad_weight.to(weight_hh.dtype), flat.sum(1).to(bias_dtype)
