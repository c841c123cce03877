"""Batches: every item once, little padding, nothing lost in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.runtime.batching import bucket_batches, bucket_stream, pad_stack

LENGTHS = st.lists(st.integers(1, 128), max_size=60)


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 20))
def test_partition(lengths, batch_size):
    """A pair is answered twice or never, or batches mix lengths more than they must."""
    found = list(bucket_batches(lengths, batch_size))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert all(len(batch) == batch_size for batch in found[:-1])
    order = [i for batch in found for i in batch]
    assert order == sorted(order, key=lambda i: (lengths[i], i))


@settings(max_examples=100, deadline=None)
@given(LENGTHS, st.integers(1, 8), st.integers(1, 4))
def test_stream_is_a_partition_too(lengths, batch_size, window):
    """A streamed item is lost at the edge of a window, or a batch is small without need."""
    items = list(enumerate(lengths))
    found = list(bucket_stream(iter(items), lambda item: item[1], batch_size, window))
    assert sorted(item for batch in found for item in batch) == items
    assert all(len(batch) == batch_size for batch in found[:-1])
    for batch in found:
        assert batch == sorted(batch, key=lambda item: (item[1], item[0]))


class _Item:
    alive = 0

    def __init__(self, length):
        self.length = length
        _Item.alive += 1

    def __del__(self):
        _Item.alive -= 1


def test_stream_holds_no_more_than_its_window():
    """20,000 videos are loaded before the first batch is answered, or stay in memory after it."""
    _Item.alive = read = most = 0

    def items():
        nonlocal read, most
        for n in range(20_000):
            read += 1
            yield _Item(n % 128)
            most = max(most, _Item.alive)

    for number, batch in enumerate(bucket_stream(items(), lambda item: item.length, 8, window=4)):
        assert read <= (number // 4 + 1) * 32
        del batch
    assert read == 20_000
    assert most <= 32 + 8  # the window, and the batch that is still in hand


def test_nothing_is_read_before_a_batch_is_asked_for():
    """Building the pipeline reads feature files."""
    stream = bucket_stream((1 / 0 for _ in range(3)), int, 2)
    with pytest.raises(ZeroDivisionError):
        next(stream)


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_are_checked(size):
    """A batch size of 0 loops for ever or answers nothing."""
    with pytest.raises(ValueError, match="batch_size"):
        bucket_batches([1, 2], size)
    with pytest.raises(ValueError, match="batch_size"):
        bucket_stream([1, 2], int, size)
    with pytest.raises(ValueError, match="window"):
        bucket_stream([1, 2], int, 1, size)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=6),
    st.sampled_from([(), (3,), (2, 5)]),
    st.sampled_from(["float32", "int64", "bool"]),
    st.integers(0, 5) | st.none(),
)
def test_padding_round_trip(lengths, inner, dtype, extra):
    """Stacking changes values, the mask hides real positions, or padding is not zero."""
    rng = np.random.default_rng(len(lengths))
    arrays = [rng.integers(1, 9, (n, *inner)).astype(dtype) for n in lengths]
    asked = None if extra is None else max(lengths) + extra
    stacked, mask = pad_stack(arrays, asked)
    assert stacked.shape == (len(lengths), asked or max(lengths), *inner)
    assert (stacked.dtype, mask.dtype) == (np.dtype(dtype), np.bool_)
    assert mask.sum(axis=1).tolist() == lengths
    for array, row, real in zip(arrays, stacked, mask, strict=True):
        np.testing.assert_array_equal(row[real], array)
        assert not row[~real].any()


def test_padding_of_characters():
    """Character ids of words of different widths cannot be stacked, or lose characters."""
    arrays = [np.full((2, 4), 7), np.full((3, 6), 8)]
    stacked, mask = pad_stack(arrays, 5, width=6)
    assert stacked.shape == (2, 5, 6)
    assert stacked[0].sum() == arrays[0].sum()
    np.testing.assert_array_equal(stacked[1, :3], arrays[1])
    assert mask.sum(axis=1).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("arrays", "options"),
    [
        ([], {}),
        ([np.zeros((3, 2))], {"length": 2}),
        ([np.zeros((3, 2)), np.zeros((3, 1))], {}),
        ([np.zeros(3), np.zeros((3, 1))], {}),
        ([np.zeros(3), np.zeros(3, np.float32)], {}),
        ([np.zeros((3, 5))], {"width": 4}),
    ],
)
def test_arrays_that_do_not_fit(arrays, options):
    """Features of different widths are stacked with zeros where numbers are missing, or cut."""
    with pytest.raises(ValueError, match="got"):
        pad_stack(arrays, **options)
