import builtins
import gc
import io
import os
import pickle
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from img_deploy.errors import FeatureError
from img_deploy.features.kinds import FeatureKind
from img_deploy.features.prepare import prepare_tokens
from img_deploy.features.readers import (
    npy_from_bytes,
    npy_shape,
    npz_shape,
    pt_shape,
    read_array,
    read_npy,
    read_npz,
    read_pickle,
    read_pt,
    shape_of,
)

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


def save(path: Path, array: Any) -> Path:
    """Writes an array in the format that the suffix names."""
    if path.suffix == ".npy":
        np.save(path, array, allow_pickle=True)
    elif path.suffix == ".npz":
        np.savez(path, features=array)
    else:
        import torch

        torch.save(torch.from_numpy(array) if isinstance(array, np.ndarray) else array, path)
    return path


def refusal(path: Path, width: int = 3) -> str:
    """The one line with which reading a file ends; it must name the file."""
    with pytest.raises(FeatureError) as caught:
        read_features(path, width)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def read_features(path: Path, width: int = 3) -> np.ndarray:
    """A file as the network takes it."""
    return prepare_tokens(str(path), read_array(path), FeatureKind("plain", width))


SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])


@SUFFIXES
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1"])
def test_reads_what_was_written(tmp_path: Path, suffix: str, dtype: str) -> None:
    """A number type that extractors use would be refused or read wrongly."""
    path = save(tmp_path / f"a{suffix}", FEATURES.astype(dtype))
    result = read_features(path, 3)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, FEATURES)
    assert shape_of(path) == (4, 3)


@SUFFIXES
def test_empty_middle_axes_go(tmp_path: Path, suffix: str) -> None:
    """ActivityNet's I3D files have shape (T, 1, 1, 1024) and would be refused."""
    path = save(tmp_path / f"a{suffix}", FEATURES[:, None, None])
    np.testing.assert_array_equal(read_features(path, 3), FEATURES)
    assert shape_of(path) == (4, 3)


@pytest.mark.parametrize("array", [np.asfortranarray(FEATURES), FEATURES.astype(">f4"), FEATURES[::2]])
def test_other_memory_layouts(tmp_path: Path, array: np.ndarray) -> None:
    """Column-major or big-endian files would be read transposed or garbled."""
    for name in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(read_features(save(tmp_path / name, array)), array)


def test_bfloat16_and_gradients(tmp_path: Path) -> None:
    """Tensors saved straight out of a model would not be read."""
    import torch

    tensor = torch.from_numpy(FEATURES).bfloat16().requires_grad_()
    np.testing.assert_array_equal(read_features(save(tmp_path / "a.pt", tensor)), FEATURES)


def test_old_torch_format(tmp_path: Path) -> None:
    """A .pt file of torch before 1.6 would be refused."""
    import torch

    path = tmp_path / "a.pt"
    torch.save(torch.from_numpy(FEATURES), path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_pt(path), FEATURES)
    assert pt_shape(path) == (4, 3)


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int16]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.integers(-9, 9),
    )
)
def test_any_array_survives(tmp_path: Path, array: np.ndarray) -> None:
    """Some shape or type would come back changed."""
    for read, name in ((read_npy, "a.npy"), (read_npz, "a.npz")):
        np.testing.assert_array_equal(read(save(tmp_path / name, array)), array)


@SUFFIXES
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf"), (1e300, "Inf")])
def test_not_finite_names_the_clip(tmp_path: Path, suffix: str, value: float, name: str) -> None:
    """NaN or Inf (also what overflows in float32) would reach the network, which answers NaN everywhere."""
    features = FEATURES.astype(np.float64)
    features[2, 1] = value
    assert f"got {name} at clip 2 (column 1)" in refusal(save(tmp_path / f"a{suffix}", features))


def test_not_finite_far_into_a_long_file(tmp_path: Path) -> None:
    """Only the first block of a long file would be looked at."""
    features = np.zeros((10_000, 2), np.float32)
    features[9_999, 0] = np.nan
    assert "NaN at clip 9999" in refusal(save(tmp_path / "a.npy", features), 2)


def test_large_finite_values_pass(tmp_path: Path) -> None:
    """A sum that overflows would be taken for an Inf in the file."""
    features = np.full((4, 3), 3e38, np.float32)
    np.testing.assert_array_equal(read_features(save(tmp_path / "a.npy", features)), features)


@SUFFIXES
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (FEATURES[:, :2], "got width 2, expected 3"),
        (FEATURES[:0], "empty array"),
        (FEATURES[0], "got shape (3,)"),
        (FEATURES[None], "got shape (1, 4, 3)"),
        (np.array(1, np.float32), "got shape ()"),
        (FEATURES[:, :0], "empty array"),
        (np.array([], np.float32), "empty array"),
        (FEATURES > 3, "got dtype bool"),
        (FEATURES.astype(np.complex64), "got dtype complex64"),
    ],
)
def test_wrong_arrays(tmp_path: Path, suffix: str, array: np.ndarray, message: str) -> None:
    """A file of the wrong shape or type would end in a traceback deep inside the network."""
    assert message in refusal(save(tmp_path / f"a{suffix}", array))


@SUFFIXES
def test_empty_file(tmp_path: Path, suffix: str) -> None:
    """A download that never began would end in an EOFError."""
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert "0 bytes" in refusal(path)


@SUFFIXES
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_truncated_file(tmp_path: Path, suffix: str, keep: float) -> None:
    """A download cut short would be read as far as it goes, or end in a traceback."""
    path = save(tmp_path / f"a{suffix}", np.ones((50, 3), np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    message = refusal(path)
    assert "cut short" in message or "damaged" in message
    with pytest.raises(FeatureError):
        shape_of(path)


@SUFFIXES
@pytest.mark.parametrize("text", ["vid,seconds\n3MSZA,30\n", "<html>404</html>", "\n", "PK", "\x00" * 200])
def test_text_file_by_that_name(tmp_path: Path, suffix: str, text: str) -> None:
    """An error page saved under the name of a feature file would end in a traceback."""
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    assert "expected" in refusal(path)


def test_a_text_file_is_called_one(tmp_path: Path) -> None:
    """The user would not learn what the file really is."""
    path = tmp_path / "a.npy"
    path.write_text("<html>404</html>")
    assert "got a text file" in refusal(path)
    path.write_bytes(save(tmp_path / "b.npz", FEATURES).read_bytes())
    assert "got a zip archive" in refusal(path)
    path.write_bytes(pickle.dumps(FEATURES))
    assert "got a pickle" in refusal(path)


@SUFFIXES
def test_directory_by_that_name(tmp_path: Path, suffix: str) -> None:
    """A folder where a file is wanted would end in an IsADirectoryError."""
    path = tmp_path / f"a{suffix}"
    path.mkdir()
    assert "got a directory" in refusal(path)


@SUFFIXES
def test_missing_file(tmp_path: Path, suffix: str) -> None:
    """A path typed wrongly would end in a FileNotFoundError."""
    assert "no such file" in refusal(tmp_path / f"a{suffix}")


@SUFFIXES
def test_unreadable_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another owner would end in a PermissionError. (Simulated: root may read everything.)"""
    path = save(tmp_path / f"a{suffix}", FEATURES)

    def deny(*_arguments: Any, **_options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", deny)
    monkeypatch.setattr(io, "open", deny)
    assert "no permission" in refusal(path)


def test_unknown_suffix(tmp_path: Path) -> None:
    """A video file given as features would end in a KeyError."""
    with pytest.raises(FeatureError, match=r"got a \.mp4 file"):
        read_features(tmp_path / "a.mp4")


@SUFFIXES
def test_code_in_a_file_is_never_run(tmp_path: Path, suffix: str, trap: Any) -> None:
    """Reading a downloaded file would run a stranger's program."""
    hostile = np.array([trap], dtype=object) if suffix != ".pt" else trap
    assert "objects" in refusal(save(tmp_path / f"a{suffix}", hostile))
    assert not trap.marker.exists()


@SUFFIXES
def test_a_bare_pickle_is_never_run(tmp_path: Path, suffix: str, trap: Any) -> None:
    """np.load and torch.load fall back to the unpickler for files of no known format."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(trap))
    refusal(path)
    assert not trap.marker.exists()


def test_npz_without_the_key(tmp_path: Path) -> None:
    """The wrong array of an archive would be taken, or a KeyError raised."""
    np.savez(tmp_path / "a.npz", slow=FEATURES, fast=FEATURES)
    assert "got the keys fast, slow, expected 'features'" in refusal(tmp_path / "a.npz")


def test_npz_with_a_flipped_byte(tmp_path: Path) -> None:
    """Damage in the middle of an archive would pass as features."""
    path = save(tmp_path / "a.npz", np.zeros((40, 3), np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in refusal(path)


def test_npz_header_that_promises_too_much(tmp_path: Path) -> None:
    """A few bytes that claim terabytes would exhaust the memory."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1024)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", stream.getvalue())
    assert "cut short" in refusal(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    assert "cut short" in refusal(tmp_path / "a.npy")


@pytest.mark.parametrize("header", [b"{'descr': '<f4')", b"(" * 500, b"exit()", b"[" * 5000])
def test_npy_header_of_another_make(tmp_path: Path, header: bytes) -> None:
    """A garbled header would end in the errors of Python's own parser."""
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("shape", [(10**25, 0), (0, 10**25)])
def test_npy_header_without_data_and_without_end(tmp_path: Path, shape: tuple[int, int]) -> None:
    """NumPy's own error would end the run of thousands of videos that this file is one of."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    with pytest.raises(FeatureError):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(FeatureError):
        npy_from_bytes(stream.getvalue(), "a")


def test_an_archive_that_unpacks_without_end(tmp_path: Path) -> None:
    """A small file of zeros would take all of the memory."""
    stream, rows = io.BytesIO(), 300_000
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, 2304)}
    np.lib.format.write_array_header_1_0(stream, shape)
    size = stream.tell() + rows * 2304 * 4
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", stream.getvalue())
    data = bytearray((tmp_path / "a.npz").read_bytes())
    at = data.index(b"PK\x01\x02")  # the archive's table, which tells the size that it unpacks to
    data[at + 24 : at + 28] = size.to_bytes(4, "little")
    (tmp_path / "a.npz").write_bytes(data)
    assert "unpacks to 3 GiB" in refusal(tmp_path / "a.npz")


@SUFFIXES
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str) -> None:
    """A pipe among the files would stop a run for ever."""
    os.mkfifo(tmp_path / f"a{suffix}")
    assert "got a pipe or a device" in refusal(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], "text"])
def test_pt_without_a_tensor(tmp_path: Path, content: Any) -> None:
    """A checkpoint given as features would end in an AttributeError."""
    assert "expected a tensor" in refusal(save(tmp_path / "a.pt", content))


TENSORS: dict[str, Callable[[Any], Any]] = {
    "parameter": lambda t: __import__("torch").nn.Parameter(t),
    "half": lambda t: t.half(),
    "double": lambda t: t.double(),
    "uint8": lambda t: t.byte(),
    "int64": lambda t: t.long(),
    "transposed": lambda t: t.T.contiguous().T,
    "part of a larger one": lambda t: __import__("torch").cat([t, t])[4:],
    "every second row": lambda t: t.repeat_interleave(2, 0)[::2],
    "negated lazily": lambda t: __import__("torch")._neg_view(-t),
    "middle axes": lambda t: t[:, None, None],
}


@pytest.mark.parametrize("form", TENSORS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_pt_of_any_form(tmp_path: Path, form: str, zipped: bool) -> None:
    """A tensor that is stored in an unusual way would be refused, or read as other numbers."""
    import torch

    torch.save(TENSORS[form](torch.from_numpy(FEATURES)), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert shape_of(tmp_path / "a.pt") == FEATURES.shape
    np.testing.assert_array_equal(read_features(tmp_path / "a.pt"), FEATURES)


@pytest.mark.parametrize("name", ["complex64", "bool", "float8_e4m3fn"])
def test_pt_of_other_numbers(tmp_path: Path, name: str) -> None:
    """Values that are no real numbers would end in a traceback, or be cast in silence."""
    import torch

    tensor = torch.from_numpy(FEATURES).to(getattr(torch, name))
    assert "expected" in refusal(save(tmp_path / "a.pt", tensor))


def test_pt_of_a_sparse_tensor(tmp_path: Path) -> None:
    """A tensor that has no plain rows would end in a traceback."""
    import torch

    assert "expected a tensor" in refusal(save(tmp_path / "a.pt", torch.from_numpy(FEATURES).to_sparse()))
    nested = torch.nested.as_nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)])
    assert "expected a tensor" in refusal(save(tmp_path / "b.pt", nested))


def test_pt_whose_rows_share_their_data(tmp_path: Path) -> None:
    """A file of a kilobyte would keep a run busy for ever."""
    import torch

    path = save(tmp_path / "a.pt", torch.zeros(1, 1).expand(10**13, 24))
    assert "unpacks to 894070 GiB" in refusal(path)


@pytest.mark.parametrize(
    ("shape", "name"), [(npy_shape, "a.npy"), (npz_shape, "a.npz"), (pt_shape, "a.pt"), (read_npy, "b.npy")]
)
def test_lengths_come_from_headers(tmp_path: Path, shape: Callable[[Path], Any], name: str) -> None:
    """Planning a run over 20,000 videos would read all their data (12 MB here)."""
    path = save(tmp_path / name, np.ones((3000, 1024), np.float32))
    shape(path)  # imports torch outside the measurement
    tracemalloc.start()
    shape(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_pickle(tmp_path: Path) -> None:
    """Sound of ActivityNet would be read in another type or shape than stored."""
    path = tmp_path / "VGGish.pickle"
    table = {"v_a": np.full((3, 128), 255, np.uint8), "v_b": np.zeros((2, 1, 128), np.float32)}
    path.write_bytes(pickle.dumps(table))
    arrays = read_pickle(path)
    assert {vid: (array.shape, str(array.dtype)) for vid, array in arrays.items()} == {
        "v_a": ((3, 128), "uint8"),
        "v_b": ((2, 128), "float32"),
    }
    path.write_bytes(pickle.dumps({"v_a": np.ones(3, np.float32)}))
    with pytest.raises(FeatureError, match=r"VGGish.pickle\[v_a\]: got shape"):
        read_pickle(path)


class Cycle:
    """Garbage that gives way to other threads when it is collected."""

    def __init__(self):
        self.own = self

    def __del__(self):
        time.sleep(0)


def test_headers_are_read_in_several_threads():
    """Now and then, where threads meet in Python's parser, a run over thousands of files would end in a SystemError."""
    content = io.BytesIO()
    np.save(content, np.zeros((4, 3), np.float32))
    failed = []

    def read():
        for _ in range(200):
            Cycle()
            try:
                npy_from_bytes(content.getvalue(), "x")
            except SystemError as error:
                failed.append(error)

    before = gc.get_threshold()
    try:
        for threshold in range(3, 20):
            gc.set_threshold(threshold)
            threads = [Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        gc.set_threshold(*before)
    assert failed == []
