"""Word embedding of the GloVe variant: word vector beside a character CNN (step 2 of the network)."""

import torch
from torch import Tensor, nn

from img_deploy.kernels.word_embedding import word_embedding
from img_deploy.kernels.word_embedding.reference import CHAR_CHANNELS, CHAR_WIDTHS
from img_deploy.model.layers import Dropped, linear, xavier, zeros


class WordEmbedding(Dropped):
    """[word vector; characters] -> D, see ``kernels/word_embedding``. The table of word vectors is not a weight: its
    rows are inputs."""

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
        """[B, N, 300], [B, N] bool, [B, N, W] int64 -> [B, N, D]."""
        return word_embedding(
            word_vectors,
            word_unknown,
            char_ids,
            self.unknown,
            self.char_table.weight,
            *(self.char_weights[at] for at in range(len(CHAR_WIDTHS))),  # Dynamo of torch 2.11 cannot unpack the list
            *(self.char_biases[at] for at in range(len(CHAR_WIDTHS))),
            self.linear.weight,
            self.linear.bias,
            dropout_p=self.dropout_p,
        )
