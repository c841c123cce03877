"""Sentences to words."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from nltk.tokenize.destructive import NLTKWordTokenizer

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
    """A long sentence stops a run, is cut one word too early, or its tail is lost without a word."""
    whole = tokenize("word " * MAX_WORDS)
    assert (len(whole), whole.cut) == (MAX_WORDS, 0)
    cut = tokenize("word " * 500)
    assert (cut, cut.cut) == (whole, 500 - MAX_WORDS)
    short = tokenize("isn't it on", max_words=3)  # 3 words for a space bar, 4 for the network
    assert (short, short.cut) == (["is", "n't", "it"], 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["isn't", "on.", '"hi"', "cannot", "a", "...", "they're,"]), min_size=1), st.integers(1, 9)
)
def test_a_cut_sentence_begins_as_the_whole_one(words, most):
    """The words at the cut differ from those of the whole sentence, e.g. by a full stop that is not its last."""
    whole = tokenize(" ".join(words), max_words=1000)
    cut = tokenize(" ".join(words), max_words=most)
    assert cut == whole[:most]
    assert (cut.cut > 0) == (len(whole) > most)


PARTS = ("cannot", "gonna", "gimme", "wanna", "gotta", "lemme", "can", "not", "isn't", "door", "x.", "etc.", "1,5")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS) | st.text("abn .", min_size=1, max_size=5), min_size=1, max_size=6))
def test_plain_text_is_split_as_nltk_does(parts):
    """The words of a query without punctuation differ from the ones the network was trained on."""
    text = " ".join(" ".join(parts).split())
    assume(text)
    assert tokenize(text) == NLTKWordTokenizer().tokenize(text)


def test_too_long_a_word():
    """The limit is off by one, or the message lacks one of the two values."""
    assert tokenize("x" * MAX_CHARS) == ["x" * MAX_CHARS]
    with pytest.raises(QueryError, match=f"got a word of {MAX_CHARS + 1} characters .*at most {MAX_CHARS}"):
        tokenize("a " + "x" * (MAX_CHARS + 1))


@pytest.mark.parametrize("sentence", [".'" * 500_000, "." + "'" * 500_000 + "x", '"' * 100_000])
def test_long_hostile_text_is_refused_at_once(sentence, monkeypatch):
    """Megabytes of text are worked through before they are refused, or are shown in full in the error."""
    monkeypatch.setattr("img_deploy.text.tokens._tokenizer", None)  # calling it would fail
    with pytest.raises(QueryError) as refusal:
        tokenize(sentence)
    assert len(str(refusal.value)) < 250


def test_endless_text_is_cut_before_it_is_split(monkeypatch):
    """A megabyte of words takes seconds for the 128 of them that are used."""
    sizes = []
    monkeypatch.setattr("img_deploy.text.tokens._split", lambda text: sizes.append(len(text)) or text.split())
    words = tokenize("a " * 500_000)
    assert (len(words), words.cut) == (MAX_WORDS, 500_000 - MAX_WORDS)
    assert sizes == [2 * MAX_WORDS + 1]


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
