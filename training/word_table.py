"""The queries of a dataset, encoded once: rows of the word table and characters, padded per batch."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from img_deploy.text.vocabulary import Vocabulary

Floats: TypeAlias = npt.NDArray[np.float32]


class WordTable:
    """Words of many queries under one vocabulary. A word is encoded once however often it occurs."""

    def __init__(self, vocabulary: Vocabulary, token_lists: Sequence[Sequence[str]]) -> None:
        distinct = list(dict.fromkeys(token for tokens in token_lists for token in tokens))
        row = {word: number for number, word in enumerate(vocabulary.words)}
        place = {word: number for number, word in enumerate(distinct)}
        # A row of zeros at the end stands for padding and for words without a vector.
        self._vectors = np.concatenate([vocabulary.vectors, np.zeros_like(vocabulary.vectors[:1])])
        self._nothing = len(vocabulary.vectors)
        self._row = np.array([row.get(word, self._nothing) for word in distinct], np.int64)
        chars = [vocabulary.encode([word]).char_ids[0] for word in distinct]
        self._chars = np.zeros((len(distinct), max(map(len, chars))), np.int64)
        for line, ids in zip(self._chars, chars, strict=True):
            line[: len(ids)] = ids
        self._width = np.array([len(ids) for ids in chars])
        self._words = [np.array([place[token] for token in tokens], np.int64) for tokens in token_lists]

    def batch(
        self, indices: Sequence[int]
    ) -> tuple[Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        """Word vectors [B, N, 300], mask [B, N], unknown [B, N], characters [B, N, W], as wide as the batch needs."""
        queries = [self._words[index] for index in indices]
        longest = max(map(len, queries))
        rows = np.full((len(queries), longest), self._nothing, np.int64)
        chars = np.zeros((len(queries), longest, max(int(self._width[words].max()) for words in queries)), np.int64)
        mask = np.zeros(rows.shape, np.bool_)
        for number, words in enumerate(queries):
            rows[number, : len(words)] = self._row[words]
            chars[number, : len(words)] = self._chars[words, : chars.shape[2]]
            mask[number, : len(words)] = True
        return self._vectors[rows], mask, mask & (rows == self._nothing), chars
