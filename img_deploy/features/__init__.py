"""Reading precomputed clip and token features: kinds, files, resampling and folders. Needs numpy alone."""

from img_deploy.features.folders import FeatureFolder, open_folder
from img_deploy.features.ids import by_video
from img_deploy.features.kinds import FeatureKind, kind_named, kind_of_width, kinds_of
from img_deploy.features.prepare import VideoFeatures, prepare_tokens, prepare_video
from img_deploy.features.resample import align, downsample

__all__ = [
    "FeatureFolder",
    "FeatureKind",
    "VideoFeatures",
    "align",
    "by_video",
    "downsample",
    "kind_named",
    "kind_of_width",
    "kinds_of",
    "open_folder",
    "prepare_tokens",
    "prepare_video",
]
