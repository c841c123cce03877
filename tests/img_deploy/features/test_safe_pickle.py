import collections
import contextlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from img_deploy.errors import FeatureError
from img_deploy.features import safe_pickle
from img_deploy.features.safe_pickle import load_arrays, load_plain

ARRAY = np.arange(6, dtype=np.uint8).reshape(2, 3)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "VGGish.pickle"
    path.write_bytes(data)
    return path


def refusal(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(FeatureError) as caught:
        load_arrays(written(tmp_path, data))
    message = str(caught.value)
    assert "VGGish.pickle" in message
    assert "\n" not in message
    return message


def renamed(data: bytes, old: str, new: str) -> bytes:
    """A pickle with one module name exchanged for another, as another numpy would have written it."""
    if data[1] < 4:
        return data.replace(f"c{old}\n".encode(), f"c{new}\n".encode())
    changed = data.replace(b"\x8c" + bytes([len(old)]) + old.encode(), b"\x8c" + bytes([len(new)]) + new.encode())
    assert data[2:3] == b"\x95"  # one frame, whose length has to be put right
    return changed[:3] + struct.pack("<Q", len(changed) - 11) + changed[11:]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    """A pickle written by another Python would be refused."""
    table = {"v_a": ARRAY, "v_b": np.asfortranarray(ARRAY), "v_c": ARRAY[:0]}
    loaded = load_arrays(written(tmp_path, pickle.dumps(table, protocol=protocol)))
    assert list(loaded) == list(table)
    for vid, array in table.items():
        np.testing.assert_array_equal(loaded[vid], array)
        assert loaded[vid].dtype == np.uint8


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_old_and_new_numpy(tmp_path: Path, protocol: int, core: str) -> None:
    """Arrays pickled before or after numpy 2 renamed its core would be refused."""
    data = pickle.dumps({"v_a": ARRAY}, protocol=protocol)
    here = "numpy._core" if b"numpy._core" in data else "numpy.core"
    for module in (".multiarray", ".numeric"):
        data = renamed(data, here + module, core + module)
    assert core.encode() in data
    np.testing.assert_array_equal(load_arrays(written(tmp_path, data))["v_a"], ARRAY)


def test_python_2(tmp_path: Path) -> None:
    """A pickle of Python 2, whose texts are bytes, would be refused."""
    data = (
        b"\x80\x02}U\x03v_acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\x03\x04\xfftbs."
    )
    np.testing.assert_array_equal(load_arrays(written(tmp_path, data))["v_a"], [[0, 1, 2], [3, 4, 255]])


@settings(max_examples=50, deadline=None)
@given(
    array=hnp.arrays(st.sampled_from(["u1", "<f4", ">f4", "<f8", "<f2", "<i8", ">i2"]), hnp.array_shapes(max_side=5)),
    protocol=st.integers(0, 5),
)
def test_agrees_with_the_ordinary_unpickler(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    """Rebuilding arrays by hand would differ from numpy in some type, order or shape."""
    data = pickle.dumps(collections.OrderedDict(a=array), protocol=protocol)
    np.testing.assert_array_equal(load_arrays(written(tmp_path, data))["a"], pickle.loads(data)["a"])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["top", "value", "object array", "in a list"])
def test_code_is_never_run(tmp_path: Path, trap: Any, protocol: int, place: str) -> None:
    """A downloaded VGGish.pickle would run a stranger's program."""
    content = {
        "top": trap,
        "value": {"v_a": trap},
        "object array": {"v_a": np.array([trap], dtype=object)},
        "in a list": {"v_a": [ARRAY, trap]},
    }[place]
    message = refusal(tmp_path, pickle.dumps(content, protocol=protocol))
    assert "mkdir" in message
    assert "nothing in it was run" in message
    assert not trap.marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"builtins\neval",
        b"builtins\ngetattr",
        b"numpy\nload",
        b"numpy\nfromfile",
        b"numpy.core.multiarray\nfromfile",
        b"numpy.core.multiarray\nndarray.tofile",
        b"os\nsystem",
        b"img_deploy.features.safe_pickle\nopen",
    ],
)
def test_only_the_names_of_arrays_are_known(tmp_path: Path, name: bytes) -> None:
    """A pickle would reach functions that read, write or run things."""
    assert "refused" in refusal(tmp_path, b"\x80\x02c" + name + b"\n.")


@pytest.mark.parametrize(
    "target", [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n"]
)
def test_names_cannot_be_changed_from_inside(tmp_path: Path, target: bytes) -> None:
    """A pickle would leave something behind in the program that read it, to be met by the next file."""
    build = b"\x80\x02" + target + b"N}U\x07encodedK\x01s\x86b."
    refusal(tmp_path, build)
    assert not any(hasattr(thing, "encoded") for thing in vars(safe_pickle).values())
    data = pickle.dumps({"v_a": ARRAY}, protocol=2)
    np.testing.assert_array_equal(load_arrays(written(tmp_path, data))["v_a"], ARRAY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([ARRAY], "a pickled list"),
        ({"v_a": [1, 2]}, "got a list under key 'v_a'"),
        ({"v_a": {"x": ARRAY}}, "got a dict under key 'v_a'"),
        ({3: ARRAY}, "the key 3 is not text"),
        ({"v_a": np.array(["x"])}, "dtype 'U1'"),
        ({"v_a": np.array([None], dtype=object)}, "dtype 'O"),
        ({"v_a": np.zeros(2, "f4,f4")}, "dtype 'V8'"),
    ],
)
def test_other_contents(tmp_path: Path, content: Any, message: str) -> None:
    """A pickle of something else would end in a traceback far from its cause."""
    assert message in refusal(tmp_path, pickle.dumps(content))


def test_a_shape_that_does_not_fit_its_bytes(tmp_path: Path) -> None:
    """A pickle would make numpy read past the end of the memory it gave."""
    data = pickle.dumps({"v_a": ARRAY}, protocol=2)
    assert b"K\x02K\x03\x86" in data
    assert "6 bytes" in refusal(tmp_path, data.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86"))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x04", b"hello\n", b"PK\x03\x04", b"\x80\x04.", b"\x80\x63."])
def test_broken_files(tmp_path: Path, data: bytes) -> None:
    """A damaged file would end in a traceback."""
    assert "expected a pickled dictionary" in refusal(tmp_path, data)


@settings(max_examples=150, deadline=None)
@given(
    cut=st.integers(0, 400),
    flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    protocol=st.sampled_from([0, 2, 4, 5]),
)
def test_garbled_files(tmp_path: Path, cut: int, flips: list[tuple[int, int]], protocol: int) -> None:
    """Some damage would escape as another exception than the one line."""
    data = bytearray(pickle.dumps({"v_a": ARRAY, "v_b": ARRAY}, protocol=protocol)[: cut or None])
    for index, value in flips:
        data[index % len(data)] = value
    with contextlib.suppress(FeatureError):
        load_arrays(written(tmp_path, bytes(data)))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(tmp_path: Path, protocol: int) -> None:
    """A vocabulary pickled with its samples, in which numpy numbers and arrays occur, would be refused or changed."""
    content = {
        "words": {"a": 2, "the": 3},
        "samples": [{"time": (0.5, 2), "index": np.int64(7), "labels": [np.arange(3), None, True]}],
        "ids": {1, 2},
        "blob": b"\x00\xff",
        "score": np.float32(0.25),
        "known": np.bool_(True),
    }
    loaded = load_plain(written(tmp_path, pickle.dumps(content, protocol=protocol)))
    labels = loaded["samples"][0].pop("labels")
    content["samples"][0].pop("labels")
    assert loaded == content
    np.testing.assert_array_equal(labels[0], [0, 1, 2])
    assert labels[1:] == [None, True]


def test_plain_values_hold_no_types(tmp_path: Path) -> None:
    """A stand-in would be handed out as if it were a value."""
    for content in ({"a": np.ndarray}, {"a": [np.dtype("f4")]}):
        with pytest.raises(FeatureError, match="name of a type"):
            load_plain(written(tmp_path, pickle.dumps(content)))


def test_one_list_named_a_billion_times(tmp_path):
    """A dataset of a few hundred bytes would never be read to its end."""
    nested = ["word"]
    for _ in range(60):
        nested = [nested, nested]
    assert load_plain(written(tmp_path, pickle.dumps({"a": nested})))["a"][0] is not None
    nested.append(nested)
    with pytest.raises(FeatureError, match="damaged or foreign"):
        load_plain(written(tmp_path, pickle.dumps({"a": nested})))
