"""Reading of GloVe text files."""

import os
import warnings

import numpy as np
import pytest

from img_deploy.errors import InputError
from img_deploy.text import glove_cache, read_glove

GOOD = ("the", "a", "door", "naïve", "opens", "zebra")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def parsed(numbers) -> np.ndarray:
    """What a line's text says, in float32."""
    return np.array([float(f"{number:.5g}") for number in numbers], np.float32)


def test_every_word(glove_file, numbers):
    """A malformed line is taken, a good one lost, a number read wrongly, or a word's second line wins."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = read_glove(glove_file)
    assert rows.words == GOOD
    assert (rows.lines, rows.skipped) == (14, 7)
    np.testing.assert_array_equal(rows.vectors, [parsed(numbers(seed)) for seed in (0, 1, 3, 6, 9, 10)])
    assert rows.vectors.dtype == np.float32


def test_more_rows_than_the_first_allocation(tmp_path, glove_line, numbers):
    """Growing the matrix loses or mixes rows."""
    path = tmp_path / "many.txt"
    path.write_bytes(b"".join(glove_line(f"w{n}", numbers(n, 3)) for n in range(5000)))
    rows = read_glove(path, width=3)
    assert rows.words == tuple(f"w{n}" for n in range(5000))
    np.testing.assert_array_equal(rows.vectors, [parsed(numbers(n, 3)) for n in range(5000)])


def test_wanted_words_only(glove_file, numbers):
    """Words that nobody asked for come back, or wanted ones do not."""
    rows = read_glove(glove_file, {"zebra", "door", "unheard", "nan", "short"})
    assert rows.words == ("door", "zebra")
    np.testing.assert_array_equal(rows.vectors, [parsed(numbers(3)), parsed(numbers(10))])
    none = read_glove(glove_file, {"unheard"})
    assert (none.words, none.vectors.shape) == ((), (0, 300))


def test_reading_ends_with_the_last_wanted_word(glove_file):
    """A query of common words would read all of a 5 GB file."""
    assert read_glove(glove_file, {"the", "a"}, use_cache=False).lines == 3


def test_second_run_does_not_read_the_file(glove_file, monkeypatch):
    """The cache misses on the same file and words, or gives other rows."""
    wanted = {"door", "zebra", "naïve", "unheard"}
    first = read_glove(glove_file, wanted)
    monkeypatch.setattr("img_deploy.text.glove._Scan", None)  # reading again would fail
    second = read_glove(glove_file, sorted(wanted, reverse=True))
    assert (second.words, second.lines, second.skipped) == (first.words, first.lines, first.skipped)
    np.testing.assert_array_equal(second.vectors, first.vectors)
    with pytest.raises(TypeError):
        read_glove(glove_file, wanted | {"else"})
    with pytest.raises(TypeError):
        read_glove(glove_file, wanted, use_cache=False)


def test_changed_file_is_read_again(glove_file, glove_line, numbers):
    """A replaced GloVe file answers with the old one's rows."""
    wanted = {"door", "unheard"}
    read_glove(glove_file, wanted)
    status = glove_file.stat()
    changed = glove_file.read_bytes().replace(glove_line("door", numbers(3)), glove_line("door", -numbers(3)))
    glove_file.write_bytes(changed)
    os.utime(glove_file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as unpacked archives do
    np.testing.assert_array_equal(read_glove(glove_file, wanted).vectors, [parsed(-numbers(3))])


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"\x93NUMPY not really"])
def test_damaged_cache_is_not_an_error(glove_file, tmp_path, damage):
    """A torn cache file ends a command, or its rows reach the network."""
    wanted = {"door", "unheard"}
    first = read_glove(glove_file, wanted)
    (kept,) = (tmp_path / "cache" / "img-deploy" / "glove").glob("glove-*.npz")
    kept.write_bytes(damage)
    np.testing.assert_array_equal(read_glove(glove_file, wanted).vectors, first.vectors)


def test_cache_that_cannot_be_written(glove_file, tmp_path, caplog):
    """A read-only home ends the command, or costs a slow read at each run without a word about it."""
    (tmp_path / "file").write_text("")
    rows = read_glove(glove_file, {"door", "unheard"}, cache_dir=tmp_path / "file" / "cache")
    assert rows.words == ("door",)
    assert "not kept" in caplog.text


def test_cache_does_not_grow_for_ever(glove_file, tmp_path, monkeypatch):
    """Each new set of words leaves a file behind for good."""
    monkeypatch.setattr(glove_cache, "_MOST_FILES", 3)
    for n in range(6):
        read_glove(glove_file, {"door", f"unheard{n}"})
    assert len(list((tmp_path / "cache" / "img-deploy" / "glove").iterdir())) == 3


def test_progress(tmp_path, glove_line, numbers, monkeypatch):
    """The bar goes backwards, never ends, or shows another total."""
    monkeypatch.setattr("img_deploy.text.glove._PROGRESS_EVERY", 100)
    path = tmp_path / "glove.txt"
    path.write_bytes(b"".join(glove_line(f"w{n}", numbers(n, 5)) for n in range(50)))
    size = path.stat().st_size
    calls: list[tuple[int, int]] = []
    for use_cache in (True, True, False):  # the second answers from the cache
        calls.clear()
        read_glove(path, {"w40", "none"}, width=5, progress=lambda *at: calls.append(at), use_cache=use_cache)
        assert calls[-1] == (size, size)
        assert calls == sorted(calls)
        assert {total for _, total in calls} == {size}
    assert len(calls) > 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"the 1 2 3\na 4 5 6\n" * 600, "got lines of 4 fields, expected a word and 300 numbers"),
        (b"the 1 2 3\n", "expected a word and 300 numbers"),
        (b"PK\x03\x04" + bytes(300_000), "unpacked"),
        (bytes(range(256)) * 1000, "expected a word and 300 numbers"),
        (b" ".join([b"the"] + [b"0.1"] * 300)[:-2].replace(b"the ", b" "), "expected a word and 300 numbers"),
    ],
)
def test_not_a_glove_file(tmp_path, content, message):
    """A wrong file is taken for a vocabulary of nothing, or ends in a traceback."""
    path = tmp_path / "glove.txt"
    path.write_bytes(content)
    for wanted in (None, {"the"}):
        with pytest.raises(InputError, match=message):
            read_glove(path, wanted)


def test_line_longer_than_any_word(tmp_path, glove_line, numbers):
    """The pieces of an endless line are taken for lines of their own."""
    path = tmp_path / "glove.txt"
    tail = glove_line("inside", numbers(1))
    path.write_bytes(b"x" * (1 << 16) + tail + glove_line("good", numbers(2)))
    assert read_glove(path).words == ("good",)


def test_missing_file_and_folder(tmp_path):
    """A wrong path ends in a traceback."""
    with pytest.raises(InputError, match="no such file"):
        read_glove(tmp_path / "none.txt", {"the"})
    with pytest.raises(InputError, match="folder"):
        read_glove(tmp_path)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_of_other_systems(tmp_path, glove_line, numbers, mark, end):
    """The first word after a byte order mark is lost, or a file with line ends of another system is refused."""
    path = tmp_path / "glove.txt"
    words = ["the", "naïve", *(f"w{n}" for n in range(200))]  # more than one piece of 64 KB
    lines = [glove_line(word, numbers(seed)).replace(b"\n", end) for seed, word in enumerate(words)]
    path.write_bytes(mark + b"".join(lines))
    rows = read_glove(path)
    assert rows.words == tuple(words)
    assert rows.skipped == 0
    np.testing.assert_array_equal(rows.vectors[1], parsed(numbers(1)))
    assert read_glove(path, {"the", "w199"}).words == ("the", "w199")
