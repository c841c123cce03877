"""Planted data: generated datasets in the real layout, in which it is known what decides each query."""

from img_deploy.training.planted.config import KINDS, PlantedConfig
from img_deploy.training.planted.noise import replace_audio_with_noise
from img_deploy.training.planted.queries import PlantedQuery, PlantedRecord, read_planted
from img_deploy.training.planted.writer import PlantedSummary, write_planted

__all__ = [
    "KINDS",
    "PlantedConfig",
    "PlantedQuery",
    "PlantedRecord",
    "PlantedSummary",
    "read_planted",
    "replace_audio_with_noise",
    "write_planted",
]
