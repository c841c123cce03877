"""Samples of different lengths in one array: nothing lost, nothing else in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.runtime.backends.padded import stacked


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.sampled_from([(), (3,), (2, 5)]),
    st.sampled_from(["float32", "float16", "int64", "bool"]),
)
def test_padding_round_trip(lengths, inner, dtype):
    """Stacking changes values, or padding is not zero."""
    rng = np.random.default_rng(len(lengths))
    arrays = [rng.integers(1, 9, (n, *inner)).astype(dtype) for n in lengths]
    found = stacked(arrays)
    assert (found.shape, found.dtype) == ((len(lengths), max(lengths), *inner), np.dtype(dtype))
    for array, row in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(row[: len(array)], array)
        assert not row[len(array) :].any()


def test_padding_of_characters():
    """Character ids of words of different widths cannot be stacked, or lose characters."""
    arrays = [np.full((2, 4), 7), np.full((3, 6), 8)]
    found = stacked(arrays)
    assert found.shape == (2, 3, 6)
    assert found[0].sum() == arrays[0].sum()
    np.testing.assert_array_equal(found[1], arrays[1])


def test_features_of_different_widths_are_refused():
    """They are stacked with zeros where numbers are missing."""
    with pytest.raises(ValueError, match="expected one width"):
        stacked([np.zeros((3, 2)), np.zeros((3, 1))])


def test_a_half_precision_does_not_round_the_others():
    """Clips of an index, in float32, lose digits beside those of a backend that computes in halves."""
    third = np.full((1, 1), 1 / 3, np.float32)
    assert stacked([np.zeros((2, 1), np.float16), third])[1, 0, 0] == third[0, 0]


def test_a_single_video_is_not_copied():
    """A megabyte and a half would be copied, and its memory asked for, before every answer about one video."""
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert np.shares_memory(stacked([array]), array)
    assert np.shares_memory(stacked(array), array)
