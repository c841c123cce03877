"""Word embedding of the GloVe variant: word vector beside a character CNN (step 2 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from img_deploy.kernels.checking import Tolerance
from img_deploy.kernels.functional import dropout
from img_deploy.kernels.linear_gradient import linear

CHAR_WIDTHS = (1, 2, 3, 4)
CHAR_CHANNELS = (10, 20, 30, 40)
MIN_CHARS = max(CHAR_WIDTHS)
"""Words are seen at least this wide, or the widest convolution would have no window."""

_ROUNDED = "rounded to {} bits: the convolutions' outputs"

TOLERANCES = {
    "fp32": Tolerance(5e-6, 1e-6, "fp32 sums in another order"),
    "fp16": Tolerance(5e-3, 1e-3, _ROUNDED.format(11)),
    "bf16": Tolerance(4e-2, 8e-3, _ROUNDED.format(8)),
}
"""Kernel against this in float64: storage dtype -> tolerance of the result, whose size is about 1 to 10."""


def word_embedding(
    word_vectors: Tensor,
    word_unknown: Tensor,
    char_ids: Tensor,
    unknown: Tensor,
    char_table: Tensor,
    char1_weight: Tensor,
    char2_weight: Tensor,
    char3_weight: Tensor,
    char4_weight: Tensor,
    char1_bias: Tensor,
    char2_bias: Tensor,
    char3_bias: Tensor,
    char4_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """``Linear([word vector; max over positions of ReLU(conv(characters))])``.

    Windows end at the query's own longest word, so padding ``char_ids`` further changes nothing (but see
    ``MIN_CHARS``).

    Args:
        word_vectors: [B, N, V], zero for unknown words and padding.
        word_unknown: [B, N] bool, True for words without a vector; they get ``unknown`` [V].
        char_ids: [B, N, W] int64, W >= 4, 0 is padding.
        char_table: [C, E].
        char{1,2,3,4}_weight: [10, E, 1], [20, E, 2], [30, E, 3], [40, E, 4]; char{1,2,3,4}_bias: [10], ..., [40].
        weight, bias: [D, V + 100], [D].
        dropout_p: training only.

    Returns:
        [B, N, D] in ``word_vectors.dtype``.
    """
    batch, words, width = char_ids.shape
    seen = _words(word_vectors, word_unknown, unknown, dropout_p)
    positions = torch.arange(1, width + 1, device=char_ids.device)
    longest = _longest(char_ids, positions)
    x = dropout(F.embedding(char_ids, char_table, padding_idx=0), dropout_p)  # [B, N, W, E]
    x = x.flatten(0, 1).transpose(1, 2)  # [B*N, E, W]
    kernels = (char1_weight, char2_weight, char3_weight, char4_weight)
    biases = (char1_bias, char2_bias, char3_bias, char4_bias)
    pooled = []
    for k, kernel, kernel_bias in zip(CHAR_WIDTHS, kernels, biases, strict=True):
        # Padded, so that every width has W windows and W is free down to MIN_CHARS in an exported graph.
        windows = F.relu(F.conv1d(F.pad(x, (0, k - 1)), kernel, kernel_bias))  # [B*N, out, W]
        inside = positions <= (longest - k + 1)[:, None]  # [B, W]
        inside = inside[:, None, None].to(x.dtype)
        windows = torch.unflatten(windows, 0, (batch, words)) * inside  # ReLU's output is never below 0
        pooled.append(windows.amax(dim=-1))
    return linear(torch.cat([seen, *pooled], dim=-1), weight, bias)


def word_embedding_trained(
    word_vectors: Tensor,
    word_unknown: Tensor,
    char_ids: Tensor,
    unknown: Tensor,
    char_table: Tensor,
    *weights: Tensor,
    dropout_p: float = 0.0,
) -> Tensor:
    """:func:`word_embedding` with the convolutions as one matrix product: four small ones are slow to differentiate."""
    *convolutions, weight, bias = weights
    batch, words, width = char_ids.shape
    seen = _words(word_vectors, word_unknown, unknown, dropout_p)
    x = dropout(F.embedding(char_ids, char_table, padding_idx=0), dropout_p).flatten(0, 1)  # [B*N, W, E]
    windows = F.pad(x, (0, 0, 0, MIN_CHARS - 1)).unfold(1, MIN_CHARS, 1).flatten(2)  # [B*N, W, E * 4]
    kernels = [F.pad(one, (0, MIN_CHARS - k)) for k, one in zip(CHAR_WIDTHS, convolutions[:4], strict=True)]
    found = F.relu(linear(windows, torch.cat(kernels).flatten(1), torch.cat(convolutions[4:])))
    found = found.view(batch, words, width, -1)
    characters = (found * inside_windows(char_ids)[:, None].to(found.dtype)).amax(dim=2)
    return linear(torch.cat([seen, characters], dim=-1), weight, bias)


def inside_windows(char_ids: Tensor) -> Tensor:
    """Whether a channel's window at a position ends inside the query's longest word: [B, W, 100] bool."""
    positions = torch.arange(1, char_ids.shape[-1] + 1, device=char_ids.device)
    # Filled where they are used: copied there, the host would wait for the device.
    taps = torch.cat([positions.new_full((n,), k) for k, n in zip(CHAR_WIDTHS, CHAR_CHANNELS, strict=True)])  # [100]
    return positions[:, None] <= _longest(char_ids, positions)[:, None, None] - taps + 1


def _longest(char_ids: Tensor, positions: Tensor) -> Tensor:
    """Characters of each query's longest word, [B], at least ``MIN_CHARS``."""
    seen = (char_ids != 0) | (positions <= MIN_CHARS)
    return (seen * positions).amax(dim=(1, 2))


def _words(word_vectors: Tensor, word_unknown: Tensor, unknown: Tensor, dropout_p: float) -> Tensor:
    return dropout(word_vectors + word_unknown[..., None].to(word_vectors.dtype) * unknown, dropout_p)


def fake(word_vectors: Tensor, *others: Tensor) -> Tensor:
    """Shape and dtype of the result."""
    return word_vectors.new_empty((*word_vectors.shape[:2], others[-1].shape[0]))
