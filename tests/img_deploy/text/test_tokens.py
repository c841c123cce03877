"""Sentences to words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import QueryError
from img_deploy.text import MAX_CHARS, MAX_WORDS, tokenize


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("person turn a light on.", ["person", "turn", "a", "light", "on", "."]),
        ("  The person ISN'T there \n", ["the", "person", "is", "n't", "there"]),
        ("they're gonna sit, or cannot.", ["they", "'re", "gon", "na", "sit", ",", "or", "can", "not", "."]),
        ('a man says "hi"', ["a", "man", "says", "``", "hi", "''"]),
        ("he left. she came.", ["he", "left.", "she", "came", "."]),
        ("a man\tin\r\nred\x00and\x85blue\u2028sits", ["a", "man", "in", "red", "and", "blue", "sits"]),
        ("\ufeffa per\u00adson\u200b runs\u00a0away", ["a", "person", "runs", "away"]),
        ("Ein Mädchen läuft", ["ein", "mädchen", "läuft"]),
    ],
)
def test_words(sentence, words):
    """Words differ from the ones the network was trained on, or invisible characters make them unknown."""
    assert tokenize(sentence) == words


@pytest.mark.parametrize("sentence", ["", " ", "\n\t", "\x00\x07", "\u200b\ufeff"])
def test_nothing_to_ask(sentence):
    """A query without words would reach the network as an empty sequence."""
    with pytest.raises(QueryError, match="got no words"):
        tokenize(sentence)


def test_too_many_words():
    """The limit is off by one, or the message lacks one of the two values."""
    assert len(tokenize("word " * MAX_WORDS)) == MAX_WORDS
    with pytest.raises(QueryError, match=f"got 500 words, expected at most {MAX_WORDS}"):
        tokenize("word " * 500)
    with pytest.raises(QueryError, match="got 4 words, expected at most 3"):
        tokenize("isn't it on", max_words=3)  # 3 words for a space bar, 4 for the network


def test_too_long_a_word():
    """The limit is off by one, or the message lacks one of the two values."""
    assert tokenize("x" * MAX_CHARS) == ["x" * MAX_CHARS]
    with pytest.raises(QueryError, match=f"got a word of {MAX_CHARS + 1} characters .*at most {MAX_CHARS}"):
        tokenize("a " + "x" * (MAX_CHARS + 1))


@pytest.mark.parametrize("sentence", [".'" * 500_000, "a " * 500_000, "." + "'" * 500_000 + "x", '"' * 100_000])
def test_long_hostile_text_is_refused_at_once(sentence, monkeypatch):
    """Megabytes of text are worked through before they are refused, or are shown in full in the error."""
    monkeypatch.setattr("img_deploy.text.tokens._tokenizer", None)  # calling it would fail
    with pytest.raises(QueryError) as refusal:
        tokenize(sentence)
    assert len(str(refusal.value)) < 250


@pytest.mark.parametrize(("value", "message"), [("caf\udce9", "not UTF-8"), (None, "NoneType"), (3, "int")])
def test_not_text(value, message):
    """Bytes of another encoding, or a number of a JSON file, end in a traceback."""
    with pytest.raises(QueryError, match=message):
        tokenize(value)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text(sentence):
    """Some text gives an empty, spaced or upper-case word, or an error that is not a QueryError."""
    try:
        words = tokenize(sentence)
    except QueryError:
        return
    assert words
    assert all(word and not any(char.isspace() for char in word) for word in words)
    assert all(word == word.lower() for word in words)
