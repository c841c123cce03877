"""Word embedding of the GloVe variant: word vector beside a character CNN (step 2 of the network)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from img_deploy.kernels.linear_gradient import linear as apply_linear
from img_deploy.kernels.pieces import dropout
from img_deploy.model.layers import Dropped, linear, xavier, zeros

CHAR_WIDTHS = (1, 2, 3, 4)
CHAR_CHANNELS = (10, 20, 30, 40)
MIN_CHARS = max(CHAR_WIDTHS)
"""Words are seen at least this wide, or the widest convolution would have no window."""


class WordEmbedding(Dropped):
    """[word vector; characters] -> D. The table of word vectors is not a weight: its rows are inputs."""

    def __init__(self, word_dim: int, chars: int, char_dim: int, dim: int, p: float) -> None:
        super().__init__(p)
        self.unknown = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, word_dim)).reshape(word_dim))
        table = torch.randn(chars, char_dim)
        table[0] = 0.0
        self.char_table = nn.Embedding(chars, char_dim, padding_idx=0, _weight=table)
        self.char_weights = nn.ParameterList(
            [xavier(out, char_dim, k) for k, out in zip(CHAR_WIDTHS, CHAR_CHANNELS, strict=True)]
        )
        self.char_biases = nn.ParameterList([zeros(out) for out in CHAR_CHANNELS])
        self.linear = linear(word_dim + sum(CHAR_CHANNELS), dim)

    def forward(self, word_vectors: Tensor, word_unknown: Tensor, char_ids: Tensor) -> Tensor:
        """Embed words.

        Args:
            word_vectors: [B, N, 300], zero for unknown words and padding.
            word_unknown: [B, N] bool, True for words without a vector.
            char_ids: [B, N, W] int64, W >= 4, 0 is padding.

        Returns:
            [B, N, D].
        """
        words = word_vectors + word_unknown[..., None].to(word_vectors.dtype) * self.unknown
        words = dropout(words, self.dropout_p)
        characters = self.characters_trained if self.training else self.characters
        return self.linear(torch.cat([words, characters(char_ids)], dim=-1))

    def characters(self, char_ids: Tensor) -> Tensor:
        """Max-pooled character convolutions, [B, N, 100]. Windows end at the query's own longest word, so
        padding ``char_ids`` further changes nothing (but see MIN_CHARS)."""
        batch, words, width = char_ids.shape
        positions = torch.arange(1, width + 1, device=char_ids.device)
        seen = (char_ids != 0) | (positions <= MIN_CHARS)
        longest = (seen * positions).amax(dim=(1, 2))  # [B]
        x = dropout(self.char_table(char_ids), self.dropout_p)  # [B, N, W, C]
        x = x.flatten(0, 1).transpose(1, 2)  # [B*N, C, W]
        pooled = []
        for k, weight, bias in zip(CHAR_WIDTHS, self.char_weights, self.char_biases, strict=True):
            # Padded, so that every width has W windows and W is free down to MIN_CHARS in an exported graph.
            windows = F.relu(F.conv1d(F.pad(x, (0, k - 1)), weight, bias))  # [B*N, out, W]
            inside = positions <= (longest - k + 1)[:, None]  # [B, W]
            inside = inside[:, None, None].to(x.dtype)
            windows = torch.unflatten(windows, 0, (batch, words)) * inside  # ReLU's output is never below 0
            pooled.append(windows.amax(dim=-1))
        return torch.cat(pooled, dim=-1)

    def characters_trained(self, char_ids: Tensor) -> Tensor:
        """:meth:`characters` as one matrix product: four small convolutions are slow to differentiate."""
        batch, words, width = char_ids.shape
        widest = max(CHAR_WIDTHS)
        x = dropout(self.char_table(char_ids), self.dropout_p).flatten(0, 1)  # [B*N, W, C]
        windows = F.pad(x, (0, 0, 0, widest - 1)).unfold(1, widest, 1).flatten(2)  # [B*N, W, C * widest]
        kernels = [F.pad(weight, (0, widest - k)) for k, weight in zip(CHAR_WIDTHS, self.char_weights, strict=True)]
        weight, bias = torch.cat(kernels).flatten(1), torch.cat(list(self.char_biases))
        found = F.relu(apply_linear(windows, weight, bias)).view(batch, words, width, -1)
        positions = torch.arange(1, width + 1, device=char_ids.device)
        longest = ((char_ids != 0) * positions).amax(dim=(1, 2)).clamp(min=MIN_CHARS)  # [B]
        taps = torch.tensor(CHAR_WIDTHS, device=char_ids.device).repeat_interleave(
            torch.tensor(CHAR_CHANNELS, device=char_ids.device)
        )
        inside = positions[:, None] <= longest[:, None, None] - taps + 1  # [B, W, 100]
        return (found * inside[:, None].to(found.dtype)).amax(dim=2)
