"""Bidirectional GRU layer over ragged sequences, several independent stacks at once (step 13 of the network)."""

import torch
from torch import Tensor


def bigru(
    x: Tensor, lengths: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """One layer of S bidirectional GRUs; each sequence runs to its own length, as if packed.

    Both directions and all stacks advance together: one batched product per step. Where a sequence has ended the
    state stays zero, so the backward direction starts at the sequence's own last clip.

    Args:
        x: [S, B, L, I].
        lengths: [B] int32, clips of each sample, 0..L.
        weight_ih, weight_hh: [S, 2, 3H, I], [S, 2, 3H, H]; direction 0 forward, 1 backward; gates r, z, n.
        bias_ih, bias_hh: [S, 2, 3H].

    Returns:
        [S, B, L, 2H] in ``x.dtype``, forward beside backward, zero past each length; the state is float32.
    """
    stacks, batch, length, _ = x.shape
    hidden = weight_hh.shape[-1]
    real = torch.arange(length, device=x.device)[None, :] < lengths[:, None]  # [B, L]
    gates = torch.einsum("sbli,sdgi->lsdbg", x, weight_ih) + bias_ih[:, :, None]  # [L, S, 2, B, 3H]
    gates = torch.stack([gates[:, :, 0], gates[:, :, 1].flip(0)], dim=2).float()
    both = torch.stack([real, real.flip(1)])  # [2, B, L]
    keep = both.permute(2, 0, 1)[:, None, :, :, None].to(gates.dtype)  # [L, 1, 2, B, 1]
    recurrent = weight_hh.transpose(-1, -2)  # [S, 2, H, 3H]
    state = gates.new_zeros(stacks, 2, batch, hidden)
    steps = []
    for step in range(length):
        r_x, z_x, n_x = gates[step].chunk(3, dim=-1)
        product = state.to(x.dtype) @ recurrent + bias_hh[:, :, None]
        r_h, z_h, n_h = product.float().chunk(3, dim=-1)
        reset, update = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        candidate = torch.tanh(n_x + reset * n_h)
        state = (candidate + update * (state - candidate)) * keep[step]
        steps.append(state)
    out = torch.stack(steps, dim=3)  # [S, 2, B, L, H]
    out = torch.cat([out[:, 0], out[:, 1].flip(2)], dim=-1)
    return out.to(x.dtype)
