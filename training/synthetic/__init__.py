"""Synthetic data: generated datasets in the real layout, in which it is known what decides each query."""

from img_deploy.training.synthetic.config import KINDS, SyntheticConfig
from img_deploy.training.synthetic.noise import replace_audio_with_noise
from img_deploy.training.synthetic.queries import SyntheticQuery, SyntheticRecord, read_synthetic
from img_deploy.training.synthetic.writer import SyntheticSummary, write_synthetic

__all__ = [
    "KINDS",
    "SyntheticConfig",
    "SyntheticQuery",
    "SyntheticRecord",
    "SyntheticSummary",
    "read_synthetic",
    "replace_audio_with_noise",
    "write_synthetic",
]
