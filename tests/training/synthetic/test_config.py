"""Configurations that cannot be generated, and the presets."""

import pytest

from img_deploy.errors import ConfigError
from img_deploy.training.synthetic.config import SyntheticConfig


def test_defaults_are_the_documented_set():
    """24 actions, some 1,600 training queries, 24 to 40 clips, signal 1.2 over unit noise."""
    config = SyntheticConfig()
    assert config.actions == 24
    assert round(config.videos * (1 - config.test_share)) * config.moments == 1600
    assert (config.min_clips, config.max_clips, config.signal) == (24, 40, 1.2)


def test_small_keeps_real_widths_and_takes_changes():
    """A demo on the small set must exercise the real widths."""
    config = SyntheticConfig.small(seed=3, videos=20)
    assert (config.seed, config.videos, config.video_width, config.audio_width) == (3, 20, None, None)
    assert (SyntheticConfig.small().videos, SyntheticConfig.small().actions) == (240, 10)


def test_kinds_may_come_from_a_file():
    """A list read back from planted.json, or one name, must mean what the tuple means."""
    assert SyntheticConfig(kinds=["i3d"], video_width=8) == SyntheticConfig(kinds="i3d", video_width=8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kinds": ("i3d", "r3d")}, ["'r3d'"]),
        ({"kinds": ()}, ["at least one"]),
        ({"kinds": ("iv2",), "video_width": 8}, ["i3d alone"]),
        ({"videos": 2, "seed": -1}, ["videos: ", "seed: "]),
        ({"min_clips": 50}, ["min_clips is 50, above it (got 40)"]),
        ({"moments": 8, "min_moment": 3}, ["need 31 clips"]),
        ({"moments": 2}, ["moments: "]),
        ({"look_alike_pairs": 0}, ["look_alike_pairs: "]),
        ({"silent": 99}, ["silent: "]),
        ({"silent": 1, "other": 1}, ["different actions"]),
        ({"noise_share": 0.7, "no_audio_share": 0.7}, ["add up"]),
        ({"pair_share": 1.5, "test_share": 0}, ["pair_share: ", "test_share: "]),
        ({"signal": float("nan"), "min_clip_seconds": 0.1}, ["signal: ", "min_clip_seconds: "]),
    ],
)
def test_every_problem_is_named(changes, words):
    """An impossible set must be refused before hours of training, with all its problems at once."""
    with pytest.raises(ConfigError) as error:
        SyntheticConfig(**changes)
    assert all(word in str(error.value) for word in words)
