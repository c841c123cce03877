"""Sizes that graphs are captured at, and how a request becomes one of them and back."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from img_deploy.errors import BackendError
from img_deploy.model.config import ModelConfig
from img_deploy.model.graphs import graph_specs
from img_deploy.runtime.backends import buckets, graph_cache
from img_deploy.runtime.backends.buckets import Ladders, shape_of, sizes_of

CONFIG = ModelConfig(chars=9, video_dim=5, audio_dim=4, dim=16, heads=2, max_clips=12)
SPECS = graph_specs(CONFIG)
sizes_up_to = st.fixed_dictionaries({axis: st.integers(1, 128) for axis in ("clips", "words", "chars")})


def test_doctests():
    """The examples of the docstrings would mislead."""
    for module in (buckets, graph_cache):
        assert doctest.testmod(module).failed == 0


@given(limits=sizes_up_to, most=st.integers(1, 300), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_bucket_holds_what_is_asked_and_stays_within_the_limits(limits, most, data):
    """A request would not fit its buffers, or a graph be captured beyond the learned positions."""
    ladders = Ladders.up_to(limits, most)
    for spec in SPECS.values():
        axes = sorted({axis for tensor in spec.inputs for axis in tensor.dynamic_axes.values()})
        asked = {axis: data.draw(st.integers(1, ladders.most(axis)), axis) for axis in axes}
        bucket = ladders.bucket(spec.name, asked)
        for axis, size in bucket.sizes:
            assert asked[axis] <= size <= {**limits, "batch": most}[axis]
            assert size < 2 * asked[axis] + 16, "more than half of the work would be padding"
        assert bucket == ladders.bucket(spec.name, dict(bucket.sizes)), "a bucket is not its own bucket"


@given(limits=sizes_up_to, most=st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_buckets_are_few_and_multiples_of_16(limits, most):
    """Every request would capture a graph of its own, or every length compile a kernel of its own."""
    ladders = Ladders.up_to(limits, most)
    for axis, rungs in ladders.rungs.items():
        assert list(rungs) == sorted(set(rungs))
        assert len(rungs) <= 14
        if axis != "batch":
            assert all(rung % 16 == 0 for rung in rungs[:-1])


def test_a_longer_table_of_positions_goes_on_in_steps():
    """A network of 300 clips would have no bucket beyond 128."""
    assert Ladders.up_to({"clips": 300, "words": 1, "chars": 4}).rungs["clips"] == (16, 32, 48, 64, 96, 128, 256, 300)


def test_beyond_the_limits_is_refused_in_one_line():
    """A video longer than the network takes would read past its table of positions."""
    ladders = Ladders.up_to({"clips": 12, "words": 20, "chars": 128}, 64)
    for axis, size in (("clips", 13), ("clips", 0), ("words", 21), ("batch", 65), ("batch", 0)):
        with pytest.raises(BackendError, match=rf"^grounder: got {size} {axis}, expected 1 to \d+$"):
            ladders.bucket("grounder", {"batch": 1, "clips": 1, "words": 1, axis: size})


@given(size=st.integers(1, 256))
def test_the_next_smaller_batch_is_at_most_half(size):
    """After running out of memory the same batch, or none, would be tried again."""
    ladders = Ladders.up_to({"clips": 1, "words": 1, "chars": 4})
    below = ladders.below("batch", size)
    assert 1 <= below <= max(1, size // 2)
    assert below in ladders.rungs["batch"]


def feeds_of(graph, **sizes):
    return {
        tensor.name: np.zeros(shape_of(tensor, sizes), "float32" if tensor.dtype == "float" else tensor.dtype)
        for tensor in SPECS[graph].inputs
    }


def test_sizes_are_read_off_the_inputs():
    """A graph would be run at the sizes of another axis."""
    for graph in SPECS:
        sizes = {"batch": 3, "clips": 7, "words": 5, "chars": 6}
        found = sizes_of(SPECS[graph], feeds_of(graph, **sizes))
        assert found == {axis: sizes[axis] for axis in found}
        assert "batch" in found


def test_inputs_that_do_not_fit_are_refused_in_one_line():
    """A wrong width would be cut or padded in silence."""
    good = feeds_of("grounder", batch=3, clips=7, words=5)
    wrong = {
        "missing": ({"word_mask": None}, "got no word_mask, expected visual_clips, audio_clips"),
        "width": ({"audio_clips": np.zeros((3, 7, 15))}, r"audio_clips has shape \[3, 7, 15\], expected \[3, 7, 16\]"),
        "one of them": (
            {"audio_clips": [np.zeros((7, 16)), np.zeros((2, 16)), np.zeros((3, 15))]},
            r"audio_clips has shape \[3, 7, 15\], expected \[3, 7, 16\]",
        ),
        "none as long as the mask": (
            {"audio_clips": [np.zeros((6, 16))] * 3},
            r"audio_clips has shape \[3, 6, 16\], expected \[3, 7, 16\]",
        ),
        "batch": ({"clip_mask": np.ones((2, 7), bool)}, r"clip_mask has shape \[2, 7\], expected \[3, 7\]"),
        "axes": (
            {"visual_clips": np.zeros((7, 16))},
            r"visual_clips has shape \[7, 16\], expected \[batch, clips, 16\]",
        ),
    }
    for change, message in wrong.values():
        feeds = {name: value for name, value in {**good, **change}.items() if value is not None}
        with pytest.raises(BackendError, match=f"^grounder: {message}"):
            sizes_of(SPECS["grounder"], feeds)
