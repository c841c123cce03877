"""Vocabularies: encoding, building, widening, and what their files may hold."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import BundleError, InputError, QueryError
from img_deploy.text import Vocabulary, build_vocabulary, read_glove, tokenize

WORDS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def vocabulary():
    vectors = np.random.default_rng(0).normal(size=(3, 300)).astype(np.float32)
    return Vocabulary(["the", "door", "opens"], vectors, ["e", "o", "t", "h"])


def test_encode(vocabulary):
    """A word gets another's row, an unknown one is not marked, or character ids are off."""
    encoded = vocabulary.encode(["the", "xy", "door", "xy", "q"])
    np.testing.assert_array_equal(encoded.word_vectors[[0, 2]], vocabulary.vectors[[0, 1]])
    assert not encoded.word_vectors[[1, 3, 4]].any()
    assert encoded.word_unknown.tolist() == [False, True, False, True, True]
    assert encoded.unknown == ("xy", "q")
    assert not encoded.all_unknown
    assert encoded.char_ids.tolist() == [
        [4, 5, 2, 0],
        [1, 1, 0, 0],
        [1, 3, 3, 1],
        [1, 1, 0, 0],
        [1, 0, 0, 0],
    ]
    assert vocabulary.char_table_size == 6
    dtypes = (encoded.word_vectors.dtype, encoded.word_unknown.dtype, encoded.char_ids.dtype)
    assert dtypes == (np.float32, np.bool_, np.int64)


def test_cut_words_are_counted(vocabulary):
    """A query of which only the beginning is asked would be answered as if it were whole."""
    encoded = vocabulary.encode(tokenize("the " * 130))
    assert (len(encoded.word_vectors), encoded.cut) == (128, 2)
    assert vocabulary.encode(["the"]).cut == 0


def test_only_unknown_words(vocabulary):
    """The caller cannot tell that no word of a query is known, or encoding fails on it."""
    encoded = vocabulary.encode(["qqqqqq"])
    assert encoded.all_unknown
    assert encoded.unknown == ("qqqqqq",)
    assert encoded.char_ids.shape == (1, 6)
    with pytest.raises(QueryError):
        vocabulary.encode([])


@settings(max_examples=100, deadline=None)
@given(known=WORDS, tokens=WORDS)
def test_encode_is_the_tables_read_word_by_word(known, tokens):
    """Encoding differs from the reference's tables (0 pad, 1 unknown, entry k at k + 2)."""
    words = list(dict.fromkeys(known))
    chars = list(dict.fromkeys("".join(known)))
    vectors = np.arange(1, len(words) + 1, dtype=np.float32)[:, None].repeat(5, axis=1)
    word_dict = {word: i + 2 for i, word in enumerate(words)}
    char_dict = {char: i + 2 for i, char in enumerate(chars)}
    table = np.concatenate([np.zeros((2, 5), np.float32), vectors])
    encoded = Vocabulary(words, vectors, chars).encode(tokens)
    ids = np.array([word_dict.get(token, 1) for token in tokens])
    np.testing.assert_array_equal(encoded.word_vectors, table[ids])
    np.testing.assert_array_equal(encoded.word_unknown, ids == 1)
    assert encoded.char_ids.shape == (len(tokens), max(4, max(map(len, tokens))))
    for row, token in zip(encoded.char_ids.tolist(), tokens, strict=True):
        assert row == [char_dict.get(char, 1) for char in token] + [0] * (len(row) - len(token))


def test_a_reference_run(golden):
    """Word k of an imported vocabulary is not the reference's id k + 2."""
    with (golden / "tiny_glove" / "dataset.pkl").open("rb") as file:
        data = pickle.load(file)
    words = sorted(data["word_dict"], key=data["word_dict"].get)[2:]
    chars = sorted(data["char_dict"], key=data["char_dict"].get)[2:]
    encoded = Vocabulary(words, data["word_vector"], chars).encode(words)
    np.testing.assert_array_equal(encoded.word_vectors, data["word_vector"])
    expected = [[data["char_dict"].get(char, 1) for char in word] for word in words]
    assert [[i for i in row if i] for row in encoded.char_ids.tolist()] == expected


def test_build(glove_file):
    """Order or thresholds differ from the reference's, so imported and trained ids would not mean the same."""
    sentences = [
        ["a", "door", "opens", "naïve"],
        ["the", "door", "the", "unheard"],
        ["zebra", "opens"],
    ]
    vocabulary = build_vocabulary(sentences, glove_file, min_char_count=3)
    # door, opens and the occur twice, in this order; then a, naïve and zebra once.
    assert vocabulary.words == ("door", "opens", "the", "a", "naïve", "zebra")
    # e 7, o 6; a, r, n 4; d, h 3: each in order of appearance. The word that GloVe lacks counts too.
    assert vocabulary.chars == ("e", "o", "a", "r", "n", "d", "h")
    rows = read_glove(glove_file)
    expected = dict(zip(rows.words, rows.vectors, strict=True))
    np.testing.assert_array_equal(vocabulary.vectors, [expected[word] for word in vocabulary.words])
    again = build_vocabulary(iter(sentences), rows, min_char_count=3)
    assert (again.words, again.chars) == (vocabulary.words, vocabulary.chars)


def test_build_from_a_file_of_another_language(glove_file):
    """Training would start with a network that knows no word."""
    with pytest.raises(InputError, match="none of the 2 words"):
        build_vocabulary([["ein", "mann"]], glove_file)


def test_widen(vocabulary, glove_file):
    """Widening changes known words, forgets the file's, or changes the character table of a trained network."""
    wide = vocabulary.widen(glove_file)
    assert wide.words == ("the", "door", "opens", "a", "naïve", "zebra")
    assert wide.chars == vocabulary.chars
    np.testing.assert_array_equal(wide.vectors[:3], vocabulary.vectors)
    rows = read_glove(glove_file)
    np.testing.assert_array_equal(wide.vectors[3:], rows.vectors[[1, 3, 5]])


def test_widen_for(vocabulary, glove_file):
    """Narrow and full widening encode a query differently, or the narrow one takes words nobody asked for."""
    tokens = ["the", "zebra", "opens", "unheard", "naïve"]
    narrow = vocabulary.widen_for([tokens, ["door"]], glove_file)
    assert narrow.words == ("the", "door", "opens", "naïve", "zebra")
    ours, full = narrow.encode(tokens), vocabulary.widen(glove_file).encode(tokens)
    np.testing.assert_array_equal(ours.word_vectors, full.word_vectors)
    np.testing.assert_array_equal(ours.char_ids, full.char_ids)
    assert ours.unknown == full.unknown == ("unheard",)
    assert len(vocabulary) == 3


def test_widen_for_known_words_needs_no_file(vocabulary):
    """Queries of known words would wait for a file of several GB."""
    assert vocabulary.widen_for([["the"], ["door"]], "/nonexistent") is vocabulary
    with pytest.raises(InputError):
        vocabulary.widen_for([["zebra"]], "/nonexistent")


def test_save_and_load(tmp_path, glove_file):
    """A bundle's vocabulary is not the exported one."""
    vocabulary = build_vocabulary([["naïve", "door"], ["the"]], glove_file, min_char_count=1)
    vocabulary.save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert (loaded.words, loaded.chars) == (vocabulary.words, vocabulary.chars)
    np.testing.assert_array_equal(loaded.vectors, vocabulary.vectors)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


def test_empty_vocabulary_is_kept(tmp_path):
    """A vocabulary that only --glove fills cannot be stored, or a query of unknown words ends in a traceback."""
    Vocabulary([], np.zeros((0, 300), np.float32), []).save(tmp_path)
    loaded = Vocabulary.load(tmp_path)
    assert len(loaded) == 0
    assert loaded.encode(["door"]).word_vectors.tolist() == [[0.0] * 300]


@pytest.mark.parametrize(
    ("words", "vectors", "chars", "message"),
    [
        (["a", "a"], np.zeros((2, 300), np.float32), [], "words hold 'a' twice"),
        (["a"], np.zeros((1, 300), np.float32), ["x", "x"], "characters hold 'x' twice"),
        (["a"], np.zeros((1, 300), np.float32), ["xy"], "several characters"),
        (["a", "b"], np.zeros((1, 300), np.float32), [], "2 words, but 1 word vectors"),
        (["a"], np.zeros((1, 300)), [], "float64"),
        (["a"], np.zeros(300, np.float32), [], "float32"),
        (["a"], np.full((1, 300), np.nan, np.float32), [], "NaN or Inf"),
        (["a", 3], np.zeros((2, 300), np.float32), [], "something else than text"),
        (["a", ""], np.zeros((2, 300), np.float32), [], "something else than text"),
        ([["a"]], np.zeros((1, 300), np.float32), [], "something else than text"),
    ],
)
def test_parts_that_do_not_fit(tmp_path, vocabulary, words, vectors, chars, message):
    """A damaged bundle answers with the vectors of other words."""
    with pytest.raises(InputError, match=message):
        Vocabulary(words, vectors, chars)
    vocabulary.save(tmp_path)
    (tmp_path / "vocabulary.json").write_text(json.dumps({"schema": 1, "words": words, "chars": chars}))
    np.save(tmp_path / "word_vectors.npy", vectors)
    with pytest.raises(BundleError, match=message):
        Vocabulary.load(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "not a JSON"),
        (b"\x80\x04.", "not a JSON"),
        (b"[" * 100_000, "not a JSON"),
        (b"[]", "schema None"),
        (b'{"words": [], "chars": []}', "schema None"),
        (b'{"schema": 99, "words": [], "chars": []}', "schema 99, this program knows 1"),
        (b'{"schema": 1, "words": {}, "chars": []}', "lists"),
    ],
)
def test_damaged_table(tmp_path, vocabulary, table, message):
    """A damaged or newer vocabulary.json ends in a traceback."""
    vocabulary.save(tmp_path)
    (tmp_path / "vocabulary.json").write_bytes(table)
    with pytest.raises(BundleError, match=message):
        Vocabulary.load(tmp_path)


class _Planted:
    ran = False

    def __reduce__(self):
        return setattr, (_Planted, "ran", True)


def test_damaged_vectors(tmp_path, vocabulary):
    """A damaged word_vectors.npy ends in a traceback, takes all memory, or runs code."""
    vocabulary.save(tmp_path)
    path = tmp_path / "word_vectors.npy"
    whole = path.read_bytes()
    huge = whole.replace(b"(3, 300), ", b"(3" + b"0" * 9 + b", 300), ", 1)
    for content in (b"", whole[:50], whole[:-1], huge, pickle.dumps(_Planted()), b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"word_vectors\.npy"):
            Vocabulary.load(tmp_path)
    np.save(path, np.array([_Planted()] * 3, object), allow_pickle=True)
    with pytest.raises(BundleError, match=r"word_vectors\.npy"):
        Vocabulary.load(tmp_path)
    with path.open("wb") as file:
        np.savez(file, vectors=vocabulary.vectors)
    with pytest.raises(BundleError, match="archive"):
        Vocabulary.load(tmp_path)
    path.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        Vocabulary.load(tmp_path)
    path.mkdir()
    with pytest.raises(BundleError, match="cannot be read"):
        Vocabulary.load(tmp_path)
    assert not _Planted.ran
