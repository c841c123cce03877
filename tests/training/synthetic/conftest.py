"""Synthetic datasets, generated once."""

from pathlib import Path

import pytest

from img_deploy.training.synthetic.config import KINDS, SyntheticConfig
from img_deploy.training.synthetic.queries import SyntheticRecord, read_synthetic
from img_deploy.training.synthetic.writer import write_synthetic

TINY = {"videos": 12, "moments": 3, "min_clips": 14, "max_clips": 18, "max_moment": 6}


@pytest.fixture(scope="session")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of every kind: 12 Charades-like and 12 ActivityNet-like videos, real widths."""
    folder = tmp_path_factory.mktemp("synthetic") / "all"
    write_synthetic(folder, SyntheticConfig(kinds=KINDS, noise_share=0.2, no_audio_share=0.2, **TINY))
    return folder


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 videos of narrow features: enough of everything to measure shares and what decides a query."""
    folder = tmp_path_factory.mktemp("synthetic") / "narrow"
    write_synthetic(folder, SyntheticConfig(videos=120, video_width=48, audio_width=40))
    return folder


@pytest.fixture(scope="session")
def record(narrow: Path) -> SyntheticRecord:
    return read_synthetic(narrow)
