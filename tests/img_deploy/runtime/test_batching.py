"""Batches: every item once, little padding, nothing lost in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import FeatureError, InputError
from img_deploy.runtime.batching import AHEAD, alike, bucket_batches, pad_stack

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


class Videos:
    """Lengths of videos that count what is asked of them. A length of 0 stands for a file that cannot be read."""

    def __init__(self, lengths, silent=()):
        self.path, self.lengths, self.silent, self.asked = "videos", lengths, set(silent), []

    def clips(self, vid):
        self.asked.append(vid)
        if not self.lengths[int(vid)]:
            raise FeatureError(f"{vid} is broken")
        return self.lengths[int(vid)]

    def has_audio(self, vid):
        return int(vid) not in self.silent


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 128), max_size=60), st.integers(1, 8), st.sets(st.integers(0, 59)))
def test_batches_of_videos_keep_nearly_their_order(lengths, batch_size, silent):
    """A video is lost or read twice, a broken one stops the others, or the first row waits for the last video."""
    vids, broken = [str(number) for number in range(len(lengths))], []
    videos = Videos(lengths, silent)
    left = [vid for vid in vids if lengths[int(vid)]]
    for batch in alike(vids, videos, batch_size, lambda vid, _: broken.append(vid)):
        assert batch[0] == left[0]
        assert batch == sorted(batch, key=int)
        assert len(batch) == min(batch_size, len(left))
        assert len(videos.asked) <= len(vids) - len(left) + AHEAD * batch_size + len(broken)
        left = [vid for vid in left if vid not in batch]
    assert left == []
    assert broken == [vid for vid in vids if not lengths[int(vid)]]


def test_batches_of_videos_are_of_like_length_and_sound():
    """Half of a batch would be padding, or would go to the other head."""
    videos = Videos([10, 100, 11, 12, 99, 10], silent={2})
    assert list(alike(map(str, range(6)), videos, 2, print)) == [["0", "5"], ["1", "4"], ["2", "3"]]


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_are_checked(size):
    """A batch size of 0 loops for ever or answers nothing."""
    with pytest.raises(InputError, match="batch size: got"):
        bucket_batches([1, 2], size)


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


def test_a_single_video_is_not_copied():
    """A megabyte and a half would be copied, and its memory asked for, before every answer about one video."""
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    for options in ({}, {"length": 4}, {"width": 3}):
        stacked, mask = pad_stack([array], **options)
        assert np.shares_memory(stacked, array)
        np.testing.assert_array_equal(stacked[0], array)
        assert mask.tolist() == [[True] * 4]
    for options, shape in (({"length": 5}, (1, 5, 3)), ({"width": 4}, (1, 4, 4))):
        assert pad_stack([array], **options)[0].shape == shape
