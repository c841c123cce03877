"""The GRU layer for training: cuDNN's over packed sequences on a GPU, a hand-written backward on a CPU.

Autograd over the plain loop records some twenty small operations per step. Here a step is seven forward and four
backward: what a gate's gradient owes to the state's is linear, so its factors are computed for all steps at once.
Groups (stack and direction) come before time, so that a layer's output is the next one's input without a copy.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from img_deploy.kernels.linear_gradient import grouped_linear


def bigru(x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor) -> Tensor:
    """Same as :func:`img_deploy.kernels.bigru.reference.bigru`, faster to differentiate."""
    if x.is_cuda:
        return packed(x, lengths, weight_ih, weight_hh, bias_ih, bias_hh)
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


def packed(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """The same by PyTorch's packed GRU, which is cuDNN's on a GPU: one call per stack instead of a loop over time.

    It waits for the lengths. In float32 whatever autocast says; cuDNN computes that in TF32 unless
    ``torch.backends.cudnn.allow_tf32`` is False.
    """
    batch, length, stacks, _ = x.shape
    hidden = weight_hh.shape[-1]
    wide = torch.promote_types(x.dtype, torch.float32)
    side_by_side = x.flatten(2).to(wide)  # [B, L, S*I]: packed once for all stacks
    some = lengths.cpu().clamp(min=1)  # packing takes no sequence of none
    rows, sizes, order, back = pack_padded_sequence(side_by_side, some, batch_first=True, enforce_sorted=False)
    start = rows.new_zeros(2, batch, hidden)
    outs = []
    with torch.autocast(x.device.type, enabled=False):
        for stack, own in enumerate(rows.chunk(stacks, dim=1)):
            parts = (weight_ih[stack], weight_hh[stack], bias_ih[stack], bias_hh[stack])
            weights = [part[direction].to(wide) for direction in (0, 1) for part in parts]
            outs.append(torch._VF.gru(own, sizes, start, weights, True, 1, 0.0, True, True)[0])  # type: ignore[attr-defined]
    out, _ = pad_packed_sequence(PackedSequence(torch.cat(outs, 1), sizes, order, back), True, total_length=length)
    out = out * (lengths > 0)[:, None, None]
    return out.view(batch, length, stacks, 2 * hidden).to(x.dtype)


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
        through = (1 - update) * (1 - candidate * candidate) * mask  # d(tanh's argument) / d(state)
        factors = torch.stack(
            [
                through * recalled * reset * (1 - reset),
                (before - candidate) * update * (1 - update) * mask,
                through * reset,
            ],
            dim=-2,
        )  # [G, L, B, 3, H]
        stay = update * mask
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
        outer = torch.cat([inner[..., :2, :].flatten(-2), through * total], dim=-1)  # gradient of gates
        flat = inner.flatten(-2).flatten(1, 2)  # [G, L*B, 3H]
        grad_weight = flat.transpose(1, 2) @ before.flatten(1, 2)
        gates_dtype, bias_dtype = ctx.dtypes
        return outer.to(gates_dtype), None, grad_weight.to(weight_hh.dtype), flat.sum(1).to(bias_dtype)
