import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from img_deploy.errors import FeatureError
from img_deploy.features.resample import align, boundaries, downsample

GOLDEN = Path(__file__).parents[2] / "golden/pieces/resample.safetensors"
CASES = sorted(name.removesuffix(".in") for name in load_file(GOLDEN) if name.endswith(".in"))


@pytest.mark.parametrize("case", CASES)
def test_equals_golden(case: str) -> None:
    """Features would reach the network other than in training. To the last bit: the sums are the same sums."""
    values = load_file(GOLDEN)
    rule, _, clips = case.split(".")
    resample = {"sample": downsample, "align": align}[rule]
    np.testing.assert_array_equal(resample(values[f"{case}.in"], int(clips)), values[f"{case}.out"])


def naive(features: np.ndarray, clips: int) -> np.ndarray:
    """The rule as written, a clip at a time."""
    source = len(features)
    edges = [min(int(np.round(np.float64(i) / clips * source)), source - 1) for i in range(clips + 1)]
    return np.stack([features[a:b].mean(axis=0) if b > a else features[a] for a, b in pairwise(edges)])


@settings(max_examples=60, deadline=None)
@given(source=st.integers(1, 500), clips=st.integers(1, 130))
def test_align_follows_the_rule(source: int, clips: int) -> None:
    """A length nobody tried by hand would be cut at other rows."""
    features = np.random.default_rng(source).standard_normal((source, 3), dtype=np.float32)
    result = align(features, clips)
    assert result.shape == (clips, 3)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, naive(features, clips))


@settings(max_examples=40, deadline=None)
@given(source=st.integers(1, 300), limit=st.integers(1, 130))
def test_downsample_leaves_short_videos_alone(source: int, limit: int) -> None:
    """Short videos would be stretched, or long ones pass the positional table."""
    features = np.random.default_rng(source).standard_normal((source, 2), dtype=np.float32)
    result = downsample(features, limit)
    np.testing.assert_array_equal(result, features if source <= limit else naive(features, limit))


@settings(max_examples=40, deadline=None)
@given(source=st.integers(1, 2000), clips=st.integers(1, 200))
def test_boundaries_rise_and_stay_inside(source: int, clips: int) -> None:
    """A clip would be read past the end of a file."""
    edges = boundaries(source, clips)
    assert edges[0] == 0
    assert edges[-1] == source - 1
    assert (np.diff(edges) >= 0).all()


def test_halves_go_to_the_even_row() -> None:
    """Rounding half up would give 3 where the pipeline gives 2 (5 rows over 2 clips: the boundary is 2.5)."""
    assert boundaries(5, 2).tolist() == [0, 2, 4]


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4", "u1", "i8"])
def test_any_number_type_becomes_float32(dtype: str) -> None:
    """Features stored in another type would be refused, or averaged in it (uint8 means would be cut)."""
    features = np.arange(60).reshape(20, 3).astype(dtype)
    for result in (align(features, 7), downsample(features, 7), downsample(features, 99)):
        assert result.dtype == np.float32
    np.testing.assert_array_equal(align(features, 7), align(features.astype(np.float32), 7))


def test_long_memory_mapped_video_is_not_held_whole(tmp_path: Path) -> None:
    """100,000 clips (here 200 MB) would be copied to be averaged."""
    path = tmp_path / "long.npy"
    features = np.lib.format.open_memmap(path, "w+", np.float32, (100_000, 512))
    features[50_000] = 1
    features.flush()
    mapped = np.load(path, mmap_mode="r")
    tracemalloc.start()
    result = downsample(mapped, 128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.shape == (128, 512)
    assert result.sum() > 0
    assert peak < 20e6


def test_result_does_not_share_memory_with_the_source() -> None:
    """Writing into the result would change the caller's array."""
    features = np.zeros((4, 2), np.float32)
    for result in (downsample(features, 8), align(features, 4)):
        result[:] = 1
    assert not features.any()


@pytest.mark.parametrize("features", [np.zeros((0, 4)), np.zeros(4), np.zeros((2, 3, 4))])
def test_wrong_shape_is_named(features: np.ndarray) -> None:
    """An empty or flat array would end in an IndexError."""
    for resample in (align, downsample):
        with pytest.raises(FeatureError, match="shape"):
            resample(features, 3)


def test_no_clips_wanted() -> None:
    """0 clips would divide by zero."""
    with pytest.raises(FeatureError, match="at least 1"):
        align(np.zeros((3, 2)), 0)
