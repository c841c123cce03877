"""Feature files that cannot be used: each ends in one line, runs no code and takes neither memory nor time."""

import builtins
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from img_deploy.errors import FeatureError
from img_deploy.features.readers import npy_from_bytes, read_npy, shape_of

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def refused(read_features: Callable) -> Callable[..., str]:
    """Function: the one line with which reading a file ends; it must name the file."""

    def refusal_of(path: Path, width: int = 3) -> str:
        with pytest.raises(FeatureError) as caught:
            read_features(path, width)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        return message

    return refusal_of


SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])


@SUFFIXES
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "Inf"), (-np.inf, "Inf"), (1e300, "Inf")])
def test_not_finite_names_the_clip(
    tmp_path: Path, suffix: str, value: float, name: str, save: Callable, refused: Callable
) -> None:
    """NaN or Inf (also what overflows in float32) would reach the network, which answers NaN everywhere."""
    features = FEATURES.astype(np.float64)
    features[2, 1] = value
    assert f"got {name} at clip 2 (column 1)" in refused(save(tmp_path / f"a{suffix}", features))


def test_not_finite_far_into_a_long_file(tmp_path: Path, save: Callable, refused: Callable) -> None:
    """Only the first block of a long file would be looked at."""
    features = np.zeros((10_000, 2), np.float32)
    features[9_999, 0] = np.nan
    assert "NaN at clip 9999" in refused(save(tmp_path / "a.npy", features), 2)


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
def test_wrong_arrays(
    tmp_path: Path, suffix: str, array: np.ndarray, message: str, save: Callable, refused: Callable
) -> None:
    """A file of the wrong shape or type would end in a traceback deep inside the network."""
    assert message in refused(save(tmp_path / f"a{suffix}", array))


@SUFFIXES
def test_empty_file(tmp_path: Path, suffix: str, refused: Callable) -> None:
    """A download that never began would end in an EOFError."""
    path = tmp_path / f"a{suffix}"
    path.touch()
    assert "0 bytes" in refused(path)


@SUFFIXES
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9])
def test_truncated_file(tmp_path: Path, suffix: str, keep: float, save: Callable, refused: Callable) -> None:
    """A download cut short would be read as far as it goes, or end in a traceback."""
    path = save(tmp_path / f"a{suffix}", np.ones((50, 3), np.float32))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    message = refused(path)
    assert "cut short" in message or "damaged" in message
    with pytest.raises(FeatureError):
        shape_of(path)


@SUFFIXES
@pytest.mark.parametrize("text", ["vid,seconds\n3MSZA,30\n", "<html>404</html>", "\n", "PK", "\x00" * 200])
def test_text_file_by_that_name(tmp_path: Path, suffix: str, text: str, refused: Callable) -> None:
    """An error page saved under the name of a feature file would end in a traceback."""
    path = tmp_path / f"a{suffix}"
    path.write_text(text)
    assert "expected" in refused(path)


def test_a_text_file_is_called_one(tmp_path: Path, save: Callable, refused: Callable) -> None:
    """The user would not learn what the file really is."""
    path = tmp_path / "a.npy"
    path.write_text("<html>404</html>")
    assert "got a text file" in refused(path)
    path.write_bytes(save(tmp_path / "b.npz", FEATURES).read_bytes())
    assert "got a zip archive" in refused(path)
    path.write_bytes(pickle.dumps(FEATURES))
    assert "got a pickle" in refused(path)


@SUFFIXES
def test_directory_by_that_name(tmp_path: Path, suffix: str, refused: Callable) -> None:
    """A folder where a file is wanted would end in an IsADirectoryError."""
    path = tmp_path / f"a{suffix}"
    path.mkdir()
    assert "got a directory" in refused(path)


@SUFFIXES
def test_missing_file(tmp_path: Path, suffix: str, refused: Callable) -> None:
    """A path typed wrongly would end in a FileNotFoundError."""
    assert "no such file" in refused(tmp_path / f"a{suffix}")


@SUFFIXES
def test_unreadable_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch, save: Callable, refused: Callable
) -> None:
    """A file of another owner would end in a PermissionError. (Simulated: root may read everything.)"""
    path = save(tmp_path / f"a{suffix}", FEATURES)

    def deny(*_arguments: Any, **_options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", deny)
    monkeypatch.setattr(io, "open", deny)
    assert "no permission" in refused(path)


def test_unknown_suffix(tmp_path: Path, read_features: Callable) -> None:
    """A video file given as features would end in a KeyError."""
    with pytest.raises(FeatureError, match=r"got a \.mp4 file"):
        read_features(tmp_path / "a.mp4")


@SUFFIXES
def test_code_in_a_file_is_never_run(tmp_path: Path, suffix: str, trap: Any, save: Callable, refused: Callable) -> None:
    """Reading a downloaded file would run a stranger's program."""
    hostile = np.array([trap], dtype=object) if suffix != ".pt" else trap
    assert "objects" in refused(save(tmp_path / f"a{suffix}", hostile))
    assert not trap.marker.exists()


@SUFFIXES
def test_a_bare_pickle_is_never_run(tmp_path: Path, suffix: str, trap: Any, refused: Callable) -> None:
    """np.load and torch.load fall back to the unpickler for files of no known format."""
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pickle.dumps(trap))
    refused(path)
    assert not trap.marker.exists()


def test_npz_without_the_key(tmp_path: Path, refused: Callable) -> None:
    """The wrong array of an archive would be taken, or a KeyError raised."""
    np.savez(tmp_path / "a.npz", slow=FEATURES, fast=FEATURES)
    assert "got the keys fast, slow, expected 'features'" in refused(tmp_path / "a.npz")


def test_npz_with_a_flipped_byte(tmp_path: Path, save: Callable, refused: Callable) -> None:
    """Damage in the middle of an archive would pass as features."""
    path = save(tmp_path / "a.npz", np.zeros((40, 3), np.float32))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in refused(path)


def test_npz_header_that_promises_too_much(tmp_path: Path, refused: Callable) -> None:
    """A few bytes that claim terabytes would exhaust the memory."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 1024)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("features.npy", stream.getvalue())
    assert "cut short" in refused(tmp_path / "a.npz")
    (tmp_path / "a.npy").write_bytes(stream.getvalue())
    assert "cut short" in refused(tmp_path / "a.npy")


@pytest.mark.parametrize("header", [b"{'descr': '<f4')", b"(" * 500, b"exit()", b"[" * 5000])
def test_npy_header_of_another_make(tmp_path: Path, header: bytes, refused: Callable) -> None:
    """A garbled header would end in the errors of Python's own parser."""
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "damaged" in refused(path)


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


def test_an_archive_that_unpacks_without_end(tmp_path: Path, refused: Callable) -> None:
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
    assert "unpacks to 3 GiB" in refused(tmp_path / "a.npz")


@SUFFIXES
def test_a_pipe_is_not_waited_for(tmp_path: Path, suffix: str, refused: Callable) -> None:
    """A pipe among the files would stop a run for ever."""
    os.mkfifo(tmp_path / f"a{suffix}")
    assert "got a pipe or a device" in refused(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], "text"])
def test_pt_without_a_tensor(tmp_path: Path, content: Any, save: Callable, refused: Callable) -> None:
    """A checkpoint given as features would end in an AttributeError."""
    assert "expected a tensor" in refused(save(tmp_path / "a.pt", content))


@pytest.mark.parametrize("name", ["complex64", "bool", "float8_e4m3fn"])
def test_pt_of_other_numbers(tmp_path: Path, name: str, save: Callable, refused: Callable) -> None:
    """Values that are no real numbers would end in a traceback, or be cast in silence."""
    import torch

    tensor = torch.from_numpy(FEATURES).to(getattr(torch, name))
    assert "expected" in refused(save(tmp_path / "a.pt", tensor))


def test_pt_of_a_sparse_tensor(tmp_path: Path, save: Callable, refused: Callable) -> None:
    """A tensor that has no plain rows would end in a traceback."""
    import torch

    assert "expected a tensor" in refused(save(tmp_path / "a.pt", torch.from_numpy(FEATURES).to_sparse()))
    nested = torch.nested.as_nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)])
    assert "expected a tensor" in refused(save(tmp_path / "b.pt", nested))


def test_pt_whose_rows_share_their_data(tmp_path: Path, save: Callable, refused: Callable) -> None:
    """A file of a kilobyte would keep a run busy for ever."""
    import torch

    path = save(tmp_path / "a.pt", torch.zeros(1, 1).expand(10**13, 24))
    assert "unpacks to 894070 GiB" in refused(path)
