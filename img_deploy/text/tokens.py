"""Sentences to words."""

from functools import lru_cache
from typing import TYPE_CHECKING

from img_deploy.errors import QueryError, is_utf8

if TYPE_CHECKING:
    from nltk.tokenize.destructive import NLTKWordTokenizer

MAX_WORDS = 128
"""Most words of a query."""
MAX_CHARS = 128
"""Most characters of a word."""

_SPACES = (*range(0x20), *range(0x7F, 0xA0), 0x200B, 0x2028, 0x2029)
_INVISIBLE = (0xAD, 0x200E, 0x200F, 0x2060, 0xFEFF)
# Control characters part words as a space does; marks that pasted text carries along (soft hyphens, direction
# marks, byte order marks) would make a known word unknown, so they go.
_CLEAN: dict[int, str | None] = {**dict.fromkeys(_SPACES, " "), **dict.fromkeys(_INVISIBLE, None)}

_CONTRACTED = frozenset(("cannot", "gimme", "gonna", "gotta", "lemme", "wanna"))
"""Words of letters alone that NLTK's tokenizer takes apart."""


class Words(list[str]):
    """The words of a sentence."""

    cut: int = 0
    """Words beyond the most that a query may have; they were left out."""


def tokenize(sentence: str, max_words: int = MAX_WORDS, max_chars: int = MAX_CHARS) -> Words:
    """Words of a sentence: lower-cased, stripped, split by NLTK's English word tokenizer, the first ``max_words``.

    The sentence is taken as one: only its last full stop is a word of its own. Control characters and line
    breaks count as spaces.

    >>> tokenize("  The person isn't there.\\n")
    ['the', 'person', 'is', "n't", 'there', '.']

    Raises:
        QueryError: no words, a word of more than ``max_chars`` characters, or something that is not text.
    """
    if not isinstance(sentence, str):
        raise QueryError(f"query {sentence!r}: got {type(sentence).__name__}, expected a sentence")
    plain = _plain_words(sentence.lower())
    if 0 < len(plain) <= max_words and max(map(len, plain)) <= max_chars:
        return Words(plain)
    if not is_utf8(sentence):
        raise QueryError(f"query {_shown(sentence)}: got bytes that are not UTF-8, expected text")
    spaced = sentence.translate(_CLEAN).lower().split()
    if not spaced:
        raise QueryError(f"query {_shown(sentence)}: got no words, expected a sentence; write what to look for")
    # The tokenizer looks no further than the next word, and would take seconds on megabytes.
    head = spaced[: max_words + 1]
    text = " ".join(head)
    too_long = len(text) > len(head) * (max_chars + 1)  # then one is, however it is split
    found = head if too_long else _split(text)
    words = Words(found if too_long else found[:max_words])
    words.cut = len(spaced) - len(head) + len(found) - len(words)
    longest = max(words, key=len)
    if len(longest) > max_chars:
        raise QueryError(
            f"query {_shown(sentence)}: got a word of {len(longest)} characters ({_shown(longest)}), "
            f"expected at most {max_chars}; shorten it"
        )
    return words


def _split(text: str) -> list[str]:
    """The words of a lower-case text as NLTK's tokenizer gives them."""
    return _plain_words(text) or _tokenizer().tokenize(text)


def _plain_words(text: str) -> list[str]:
    """The same of words of letters and a full stop, as most queries are: they need none of its thirty expressions.
    Empty for another text."""
    body = text.removesuffix(".")
    letters = body.replace(" ", "")
    if not (letters.isascii() and letters.isalpha()):
        return []
    words = body.split()
    if not _CONTRACTED.isdisjoint(words):
        return []
    return words if len(body) == len(text) else [*words, "."]


def _shown(text: str, limit: int = 40) -> str:
    """A text short enough for an error line."""
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")


@lru_cache(maxsize=1)
def _tokenizer() -> "NLTKWordTokenizer":
    from nltk.tokenize.destructive import (
        NLTKWordTokenizer,  # a second or so to import, and no downloaded data
    )

    return NLTKWordTokenizer()
