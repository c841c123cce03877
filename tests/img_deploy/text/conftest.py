"""GloVe files of the test's own making."""

import numpy as np
import pytest


@pytest.fixture
def glove_line():
    """Function: a line of a GloVe file, of a word and some numbers."""

    def line(word: str | bytes, numbers) -> bytes:
        word = word.encode() if isinstance(word, str) else word
        return b" ".join([word, *(f"{number:.5g}".encode() for number in numbers)]) + b"\n"

    return line


@pytest.fixture
def numbers():
    """Function: the 300 numbers of a word, different for each seed."""
    return lambda seed, width=300: np.random.default_rng(seed).normal(size=width)


@pytest.fixture
def glove_file(tmp_path, glove_line, numbers):
    """A GloVe file with the disorder of real ones; its good words are the, a, door, naïve, opens, zebra."""
    lines = [
        b"2196017 300\n",  # a word2vec header
        glove_line("the", numbers(0)),
        glove_line("a", numbers(1)),
        glove_line(". . name@domain.com", numbers(2)),  # spaces inside a word, as in glove.840B
        glove_line("door", numbers(3)),
        glove_line(b"\xff\xfebad", numbers(4)),  # not UTF-8
        glove_line("short", numbers(5)[:-1]),
        glove_line("naïve", numbers(6)),
        glove_line("the", numbers(7)),  # a second time
        glove_line("nan", [*numbers(8)[:-1], float("nan")]),
        glove_line("opens", numbers(9)).replace(b"\n", b"\r\n"),
        b"words " + b"x " * 299 + b"x\n",
        b"\n",
        glove_line("zebra", numbers(10)).rstrip(b"\n"),
    ]
    path = tmp_path / "glove.txt"
    path.write_bytes(b"".join(lines))
    return path
