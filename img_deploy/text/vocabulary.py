"""The words and characters that a network knows, and their vectors."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from img_deploy.errors import BundleError, InputError, QueryError
from img_deploy.files import replacing_file, write_text
from img_deploy.text.glove import GLOVE_WIDTH, GloveRows, Progress, read_glove

MIN_WORD_WIDTH = 4
"""Characters a word is padded to at least: the widest character convolution."""
SCHEMA = 1
TABLE_FILE = "vocabulary.json"
VECTORS_FILE = "word_vectors.npy"

_FIRST_ID = 2  # after pad and unknown
_ID = np.dtype(np.int64)


@dataclass(eq=False, slots=True)  # frozen, it would take four times as long to make
class EncodedWords:
    """A query of N words as the network takes it."""

    word_vectors: NDArray[np.float32]
    """[N, 300]; zeros for a word that the vocabulary does not know."""
    word_unknown: NDArray[np.bool_]
    """[N]; True where the network shall use its learned unknown vector."""
    char_ids: NDArray[np.int64]
    """[N, W]; W is the longest word's length, at least 4; 0 pads, 1 is an unknown character."""
    unknown: tuple[str, ...]
    """The unknown words, each once, in the sentence's order."""
    cut: int = 0
    """Words of the sentence that were left out, since it had more than a query may have."""

    @property
    def all_unknown(self) -> bool:
        """True where no word is known: such an answer deserves a warning."""
        return all(self.word_unknown.tolist())


class Vocabulary:
    """Words with their vectors, and characters; pad and unknown are left out of all three.

    Word k and character k have the ids k + 2 of the reference (0 pads, 1 is unknown).

    Args:
        words: distinct words.
        vectors: [n, 300] float32, finite; one row per word.
        chars: distinct single characters.

    Raises:
        InputError: the three do not fit together; every problem is named.
    """

    def __init__(self, words: Sequence[str], vectors: NDArray[np.float32], chars: Sequence[str]) -> None:
        if problems := _problems(words, vectors, chars):
            raise InputError("vocabulary: " + "; ".join(problems))
        self.words = tuple(words)
        self.vectors = np.ascontiguousarray(vectors)
        self.chars = tuple(chars)
        self._row_of = {word: row for row, word in enumerate(self.words)}
        self._char_id = {char: i for i, char in enumerate(self.chars, _FIRST_ID)}
        self._known: dict[str, tuple[bytes, bytes]] = {}
        """:meth:`_look_up` of known words that were asked for."""

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._row_of

    @property
    def char_table_size(self) -> int:
        """Rows of the network's character table: the characters, pad and unknown."""
        return len(self.chars) + _FIRST_ID

    def encode(self, tokens: Sequence[str]) -> EncodedWords:
        """Network inputs of one query's words. Raises QueryError where there are none."""
        if not tokens:
            raise QueryError("query: got no words, expected a sentence")
        found = list(map(self._known.get, tokens))
        names: tuple[str, ...] = ()
        unknown = _all_known(len(found))
        if None in found:
            found = list(map(self._look_up, tokens))
            names = tuple(dict.fromkeys([token for token in tokens if token not in self._row_of]))
            unknown = np.array([token in names for token in tokens])
        rows, chars = zip(*found, strict=True)
        vectors = np.ndarray((len(rows), self.vectors.shape[1]), np.float32, bytearray().join(rows))
        size = max(MIN_WORD_WIDTH * _ID.itemsize, *map(len, chars))
        padded = bytearray().join(map(bytes.ljust, chars, repeat(size), repeat(b"\0")))
        ids = np.ndarray((len(chars), size // _ID.itemsize), _ID, padded)
        return EncodedWords(vectors, unknown, ids, names, getattr(tokens, "cut", 0))

    def _look_up(self, word: str) -> tuple[bytes, bytes]:
        """Vector of a word, zeros where it is not known, and the ids of its characters, int64."""
        row = self._row_of.get(word)
        vector = np.zeros(self.vectors.shape[1], np.float32) if row is None else self.vectors[row]
        found = vector.tobytes(), np.array([self._char_id.get(char, 1) for char in word], _ID).tobytes()
        if row is not None:  # others may be any number
            self._known[word] = found
        return found

    def widen(self, glove_path: str | Path, progress: Progress | None = None) -> "Vocabulary":
        """This vocabulary with every word of a GloVe file added; words already known keep their rows.

        All of glove.840B takes minutes and some 5 GB of memory. :meth:`widen_for` takes only the words of
        given queries, in seconds.

        Raises:
            InputError: the GloVe file cannot be used.
        """
        return self._with(read_glove(glove_path, width=self.vectors.shape[1], progress=progress))

    def widen_for(
        self,
        token_lists: Iterable[Sequence[str]],
        glove_path: str | Path,
        progress: Progress | None = None,
        cache_dir: str | Path | None = None,
        use_cache: bool = True,
    ) -> "Vocabulary":
        """This vocabulary with those words of the queries added that it lacks and the GloVe file has.

        ``token_lists`` holds one list of words per query. The file is streamed; it is not opened where the
        vocabulary knows every word. ``cache_dir`` is explained in :func:`~img_deploy.text.glove.read_glove`.

        Raises:
            InputError: the GloVe file cannot be used.
        """
        wanted = {token for tokens in token_lists for token in tokens if token not in self._row_of}
        if not wanted:
            return self
        width = self.vectors.shape[1]
        rows = read_glove(glove_path, wanted, width=width, progress=progress, cache_dir=cache_dir, use_cache=use_cache)
        return self._with(rows)

    def _with(self, rows: GloveRows) -> "Vocabulary":
        new = [i for i, word in enumerate(rows.words) if word not in self._row_of]
        vectors = np.concatenate([self.vectors, rows.vectors[new]])
        return Vocabulary([*self.words, *(rows.words[i] for i in new)], vectors, self.chars)

    def save(self, folder: str | Path) -> None:
        """Write ``vocabulary.json`` (words, characters) and ``word_vectors.npy`` ([n, 300] float32)."""
        folder = Path(folder)
        table = {"schema": SCHEMA, "words": self.words, "chars": self.chars}
        with replacing_file(folder / VECTORS_FILE) as file:
            np.save(file, self.vectors, allow_pickle=False)
        write_text(folder / TABLE_FILE, json.dumps(table))

    @classmethod
    def load(cls, folder: str | Path) -> "Vocabulary":
        """Read what :meth:`save` wrote.

        Raises:
            BundleError: a file is missing, damaged, newer than this program, or the two do not fit.
        """
        folder = Path(folder)
        words, chars = _read_table(folder / TABLE_FILE)
        vectors = _read_vectors(folder / VECTORS_FILE)
        if problems := _problems(words, vectors, chars):
            raise BundleError(f"{folder / TABLE_FILE}: {'; '.join(problems)}; export the bundle again")
        return cls(words, vectors, chars)


@lru_cache(maxsize=256)
def _all_known(words: int) -> NDArray[np.bool_]:
    unknown = np.zeros(words, bool)
    unknown.flags.writeable = False
    return unknown


def build_vocabulary(
    token_lists: Iterable[Sequence[str]],
    glove: str | Path | GloveRows,
    min_char_count: int = 5,
    *,
    width: int = GLOVE_WIDTH,
    progress: Progress | None = None,
    cache_dir: str | Path | None = None,
) -> Vocabulary:
    """Vocabulary of a training set: the words that GloVe knows, the characters that occur often enough.

    Both by falling count, ties by first appearance.

    Args:
        token_lists: words of each training sentence, then of each test sentence.
        glove: path of a GloVe text file, or rows read from one.
        min_char_count: how often a character occurs at least, counted over all words as they occur.

    Raises:
        InputError: the GloVe file cannot be used, or knows none of the words.
    """
    word_counts: Counter[str] = Counter()
    char_counts: Counter[str] = Counter()
    for tokens in token_lists:
        word_counts.update(tokens)
        for token in tokens:
            char_counts.update(token)
    if not isinstance(glove, GloveRows):
        glove = read_glove(glove, word_counts.keys(), width=width, progress=progress, cache_dir=cache_dir)
    row_of = {word: row for row, word in enumerate(glove.words)}
    words = [word for word, _ in word_counts.most_common() if word in row_of]  # a stable sort: ties keep order
    if not words:
        raise InputError(
            f"vocabulary: the GloVe file knows none of the {len(word_counts)} words; give a file of their language"
        )
    chars = [char for char, count in char_counts.most_common() if count >= min_char_count]
    return Vocabulary(words, glove.vectors[[row_of[word] for word in words]], chars)


def _problems(words: Sequence[str], vectors: NDArray[Any], chars: Sequence[str]) -> list[str]:
    problems = []
    for name, entries in (("words", words), ("characters", chars)):
        if not all(isinstance(entry, str) and entry for entry in entries):
            problems.append(f"{name} hold something else than text")
        elif len(set(entries)) != len(entries):
            twice = next(entry for entry, count in Counter(entries).items() if count > 1)
            problems.append(f"{name} hold {twice!r} twice")
    if any(isinstance(char, str) and len(char) > 1 for char in chars):
        problems.append("characters hold an entry of several characters")
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] < 1:
        problems.append(f"word vectors: got {vectors.dtype} {list(vectors.shape)}, expected float32 [n, 300]")
    elif len(vectors) != len(words):
        problems.append(f"got {len(words)} words, but {len(vectors)} word vectors")
    elif not np.isfinite(vectors).all():
        problems.append("word vectors hold NaN or Inf")
    return problems


def _read_table(path: Path) -> tuple[list[str], list[str]]:
    try:
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); export the bundle again") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{path}: not a JSON file; export the bundle again") from None
    schema = table.get("schema") if isinstance(table, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise BundleError(f"{path}: got schema {schema!r}, expected {SCHEMA}; export the bundle again")
    if schema > SCHEMA:
        raise BundleError(f"{path}: got schema {schema}, this program knows {SCHEMA}; update img-deploy")
    words, chars = table.get("words"), table.get("chars")
    if not isinstance(words, list) or not isinstance(chars, list):
        raise BundleError(f"{path}: expected lists called words and chars; export the bundle again")
    return words, chars


def _read_vectors(path: Path) -> NDArray[np.float32]:
    try:
        # Mapped, so that a header that promises more than the file holds is refused before memory is taken.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error}); export the bundle again") from None
    except (ValueError, EOFError, OverflowError):
        raise BundleError(f"{path}: not a whole .npy file of numbers; export the bundle again") from None
    if not isinstance(mapped, np.memmap):
        raise BundleError(f"{path}: got an archive, expected one .npy array; export the bundle again")
    return np.array(mapped)
