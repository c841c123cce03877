"""Feature files of every format are read as they were written."""

import gc
import io
import pickle
import time
import tracemalloc
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
from img_deploy.features.readers import (
    npy_from_bytes,
    npy_shape,
    npz_shape,
    pt_shape,
    read_npy,
    read_npz,
    read_pickle,
    read_pt,
    shape_of,
)

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


SUFFIXES = pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])


@SUFFIXES
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1"])
def test_reads_what_was_written(
    tmp_path: Path, suffix: str, dtype: str, save: Callable, read_features: Callable
) -> None:
    """A number type that extractors use would be refused or read wrongly."""
    path = save(tmp_path / f"a{suffix}", FEATURES.astype(dtype))
    result = read_features(path, 3)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, FEATURES)
    assert shape_of(path) == (4, 3)


@SUFFIXES
def test_empty_middle_axes_go(tmp_path: Path, suffix: str, save: Callable, read_features: Callable) -> None:
    """ActivityNet's I3D files have shape (T, 1, 1, 1024) and would be refused."""
    path = save(tmp_path / f"a{suffix}", FEATURES[:, None, None])
    np.testing.assert_array_equal(read_features(path, 3), FEATURES)
    assert shape_of(path) == (4, 3)


@pytest.mark.parametrize("array", [np.asfortranarray(FEATURES), FEATURES.astype(">f4"), FEATURES[::2]])
def test_other_memory_layouts(tmp_path: Path, array: np.ndarray, save: Callable, read_features: Callable) -> None:
    """Column-major or big-endian files would be read transposed or garbled."""
    for name in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(read_features(save(tmp_path / name, array)), array)


def test_bfloat16_and_gradients(tmp_path: Path, save: Callable, read_features: Callable) -> None:
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
def test_any_array_survives(tmp_path: Path, array: np.ndarray, save: Callable) -> None:
    """Some shape or type would come back changed."""
    for read, name in ((read_npy, "a.npy"), (read_npz, "a.npz")):
        np.testing.assert_array_equal(read(save(tmp_path / name, array)), array)


def test_large_finite_values_pass(tmp_path: Path, save: Callable, read_features: Callable) -> None:
    """A sum that overflows would be taken for an Inf in the file."""
    features = np.full((4, 3), 3e38, np.float32)
    np.testing.assert_array_equal(read_features(save(tmp_path / "a.npy", features)), features)


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
def test_pt_of_any_form(tmp_path: Path, form: str, zipped: bool, read_features: Callable) -> None:
    """A tensor that is stored in an unusual way would be refused, or read as other numbers."""
    import torch

    torch.save(TENSORS[form](torch.from_numpy(FEATURES)), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert shape_of(tmp_path / "a.pt") == FEATURES.shape
    np.testing.assert_array_equal(read_features(tmp_path / "a.pt"), FEATURES)


@pytest.mark.parametrize(
    ("shape", "name"), [(npy_shape, "a.npy"), (npz_shape, "a.npz"), (pt_shape, "a.pt"), (read_npy, "b.npy")]
)
def test_lengths_come_from_headers(tmp_path: Path, shape: Callable[[Path], Any], name: str, save: Callable) -> None:
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
