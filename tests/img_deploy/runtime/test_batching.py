"""Batches: every item once, little padding, nothing lost in it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import FeatureError, InputError
from img_deploy.runtime.batching import AHEAD, alike, bucket_batches

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
