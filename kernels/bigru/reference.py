"""Bidirectional GRU layer over ragged sequences, several independent stacks at once (step 13 of the network)."""

import torch
from torch import Tensor

from img_deploy.kernels.checking import Tolerance

TOLERANCES = {
    "fp32": Tolerance(2e-5, 0.0, "fp32 sums over I and H in another order, and approximate exponentials, per step"),
    "fp16": Tolerance(4e-3, 0.0, "the gates' input part and the output are rounded to 11 bits; a tile's state too"),
    "bf16": Tolerance(3e-2, 0.0, "the gates' input part and the output are rounded to 8 bits; a tile's state too"),
}
"""Kernel against this in float64: storage dtype -> tolerance of the states, which lie in -1..1."""


def bigru(
    x: Tensor,
    lengths: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor,
    bias_hh: Tensor,
) -> Tensor:
    """One layer of S bidirectional GRUs; each sequence runs to its own length, as if packed.

    Both directions and all stacks advance together: one batched product per step. Where a sequence has ended the
    state stays zero, so the backward direction starts at the sequence's own last clip.

    Args:
        x: [B, L, S, I].
        lengths: [B] int32, clips of each sample, 0..L.
        weight_ih, weight_hh: [S, 2, 3H, I], [S, 2, 3H, H]; direction 0 forward, 1 backward; gates r, z, n.
        bias_ih, bias_hh: [S, 2, 3H].

    Returns:
        [B, L, S, 2H] in ``x.dtype``, forward beside backward, zero past each length; the state is float32.
    """
    batch, length, stacks, _ = x.shape
    hidden = weight_hh.shape[-1]
    real = torch.arange(length, device=x.device)[None, :] < lengths[:, None]  # [B, L]
    gates = torch.einsum("blsi,sdgi->lsdbg", x, weight_ih) + bias_ih[:, :, None]  # [L, S, 2, B, 3H]
    gates = torch.stack([gates[:, :, 0], gates[:, :, 1].flip(0)], dim=2).flatten(1, 2)  # [L, 2S, B, 3H]
    both = torch.stack([real, real.flip(1)]).repeat(stacks, 1, 1)  # [2S, B, L]
    keep = both.permute(2, 0, 1)[..., None]  # [L, 2S, B, 1]
    states = recur(gates, keep, weight_hh.flatten(0, 1), bias_hh.flatten(0, 1))
    out = states.permute(1, 2, 0, 3).reshape(stacks, 2, batch, length, hidden)
    return torch.cat([out[:, 0], out[:, 1].flip(2)], dim=-1).to(x.dtype).permute(1, 2, 0, 3)


def fake(x: Tensor, _lengths: Tensor, _weight_ih: Tensor, weight_hh: Tensor, *_: object) -> Tensor:
    """Shape and dtype of the result."""
    return x.new_empty((*x.shape[:3], 2 * weight_hh.shape[-1]))


def recur(gates: Tensor, keep: Tensor, weight_hh: Tensor, bias_hh: Tensor) -> Tensor:
    """The loop over time of G independent GRUs.

    Args:
        gates: [L, G, B, 3H], the input's part of the gates r, z, n.
        keep: [L, G, B, 1] bool; False where the sequence has ended (or not begun): the state is zero there.
        weight_hh, bias_hh: [G, 3H, H], [G, 3H].

    Returns:
        The states [L, G, B, H], float32 (float64 for float64 gates).
    """
    wide = torch.promote_types(gates.dtype, torch.float32)
    gates_in, keep = gates.to(wide), keep.to(wide)
    weight = weight_hh.transpose(1, 2)  # [G, H, 3H]
    state = gates_in.new_zeros(*gates.shape[1:3], weight_hh.shape[-1])
    steps = []
    for step in range(gates.shape[0]):
        r_x, z_x, n_x = gates_in[step].chunk(3, dim=-1)
        r_h, z_h, n_h = (state.to(gates.dtype) @ weight + bias_hh[:, None]).to(wide).chunk(3, dim=-1)
        reset, update = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        candidate = torch.tanh(n_x + reset * n_h)
        state = (candidate + update * (state - candidate)) * keep[step]
        steps.append(state)
    return torch.stack(steps)
