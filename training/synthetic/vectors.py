"""Word vectors, and token features of queries: words of one meaning lie near each other."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from img_deploy.training.synthetic.grammar import SYNONYMS, lexicon, words_of
from img_deploy.training.synthetic.scenes import stream
from img_deploy.training.synthetic.signals import Array

GLOVE_WIDTH = 300
_MEANING, _OWN = 0.4, 0.15  # per coordinate: what synonyms share, and what tells them apart


def word_vector(word: str, width: int, seed: int, space: str = "glove") -> Array:
    """Vector of a word in one space (glove, clip, llama): [width] float32."""
    meaning = next((group[0] for group in SYNONYMS if word in group), word)
    shared = stream(seed, space, "meaning", meaning).standard_normal(width, dtype=np.float32)
    own = stream(seed, space, "word", word).standard_normal(width, dtype=np.float32)
    return np.float32(_MEANING) * shared + np.float32(_OWN) * own


def write_glove(path: Path, seed: int) -> None:
    """A GloVe text file of the grammar's words, their synonyms and some filler, with a few lines that do not split
    into 301 fields, like the real file's."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in _glove_lines(seed))


def _glove_lines(seed: int) -> Iterator[str]:
    for number, word in enumerate(lexicon()):
        yield f"{word} {_numbers(word, seed)}"
        if number == 10:
            yield f". . . {_numbers('...', seed)}"
        if number == 20:
            yield f"at name@domain.com {_numbers('at', seed)}"
    yield " ".join(f"truncated {_numbers('truncated', seed)}".split(" ")[:120])


def _numbers(word: str, seed: int) -> str:
    return " ".join(f"{number:.5f}" for number in word_vector(word, GLOVE_WIDTH, seed))


class TokenFeatures:
    """Token features of queries as a text encoder of one width gives them: a start token, the words, an end token."""

    def __init__(self, space: str, width: int, seed: int) -> None:
        self._space, self._width, self._seed = space, width, seed
        self._known: dict[str, Array] = {}

    def __call__(self, query: str, qid: int) -> Array:
        """[N + 2, width] float32; a word varies a little with the query it stands in."""
        rows = np.stack([self._vector(word) for word in ("<start>", *words_of(query), "<end>")])
        random = stream(self._seed, self._space, "context", qid)
        return rows + np.float32(_OWN) * random.standard_normal(rows.shape, dtype=np.float32)

    def _vector(self, word: str) -> Array:
        if word not in self._known:
            self._known[word] = word_vector(word, self._width, self._seed, self._space)
        return self._known[word]
