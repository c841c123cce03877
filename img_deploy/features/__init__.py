"""Reading precomputed clip and token features: kinds, files, resampling and folders. Needs numpy alone."""

from img_deploy.features.folders import FeatureFolder, VideoFeatures, open_folder
from img_deploy.features.ids import by_video
from img_deploy.features.kinds import FeatureKind, audio_kind, kind_named, text_kind, video_kind
from img_deploy.features.readers import read_features
from img_deploy.features.resample import align, downsample

__all__ = [
    "FeatureFolder",
    "FeatureKind",
    "VideoFeatures",
    "align",
    "audio_kind",
    "by_video",
    "downsample",
    "kind_named",
    "open_folder",
    "read_features",
    "text_kind",
    "video_kind",
]
