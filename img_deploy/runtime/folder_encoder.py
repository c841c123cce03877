"""Encoding a folder's videos for an index: what one worker does of a run."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from img_deploy.errors import FeatureError, ImgDeployError
from img_deploy.features.folders import FeatureFolder
from img_deploy.features.prepare import VideoFeatures
from img_deploy.runtime.encoded import EncodedVideo
from img_deploy.runtime.predictor import Predictor


class Encoded(NamedTuple):
    """What became of a video."""

    vid: str
    digest: str
    """Of its features as the network takes them; empty where they cannot be read."""
    result: EncodedVideo | ImgDeployError | None
    """None: its features are those that it was encoded from before."""


Known = tuple[str, str | None]
"""A video, and the digest of the features that it was encoded from before."""


class FolderEncoder:
    """Encodes batches of a folder's videos; those whose features are those of before are left alone."""

    def __init__(self, folder: FeatureFolder, batch_size: int, predictor: Predictor) -> None:
        self.folder, self.batch_size, self.predictor = folder, batch_size, predictor

    def __call__(self, batch: Sequence[Known]) -> list[Encoded]:
        """Raises BackendError."""
        out: list[Encoded] = []
        loaded, digests = [], []
        for (vid, before), features in zip(batch, self.folder.load_each([vid for vid, _ in batch]), strict=True):
            if isinstance(features, FeatureError):
                out.append(Encoded(vid, "", features))
                continue
            digest = digest_of(features)
            if digest == before:
                out.append(Encoded(vid, digest, None))
            else:
                loaded.append(features)
                digests.append(digest)
        results = self.predictor.encode_features(loaded, self.batch_size)
        encoded = zip(loaded, digests, results, strict=True)
        return out + [Encoded(one.vid, digest, result) for one, digest, result in encoded]


def digest_of(features: VideoFeatures) -> str:
    """Of the numbers that the network takes."""
    digest = hashlib.sha256()
    for array in (features.video, features.audio):
        shape = None if array is None else array.shape
        digest.update(repr(shape).encode() + (b"" if array is None else np.ascontiguousarray(array).tobytes()))
    return digest.hexdigest()
