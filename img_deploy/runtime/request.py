"""What is asked of which folder, before and after its files are opened, and who hears how it goes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from img_deploy.errors import ImgDeployError
from img_deploy.features.folders import FeatureFolder
from img_deploy.features.ids import by_video
from img_deploy.runtime.backends.choose import AUTO
from img_deploy.runtime.encoded import EncodedQuery, Query
from img_deploy.runtime.index import VideoIndex
from img_deploy.runtime.predictor import BATCH_SIZE
from img_deploy.runtime.queries import Plan
from img_deploy.runtime.spans import DEFAULT_NMS


@dataclass(frozen=True)
class AskOptions:
    """``nms`` is the greatest IoU of two of the ``top_k`` moments of an answer."""

    top_k: int = 1
    nms: float = DEFAULT_NMS
    batch_size: int = BATCH_SIZE


@dataclass(frozen=True)
class Request:
    """What is asked of which folder; see ``img-deploy infer --help`` for each."""

    features: str | Path
    """A folder of features, or an index."""
    bundle: Path = Path("deploy")
    queries: Sequence[str] = ()
    queries_file: Path | None = None
    videos: Sequence[str] = ()
    durations: Path | None = None
    clip_seconds: float | None = None
    glove: Path | None = None
    text_features: Path | None = None
    backend: str = AUTO
    threads: int | None = None
    engine: Literal["local", "ray"] = "local"
    """This process, or the workers of a Ray cluster."""
    workers: int | None = None
    """Of the cluster; None for as many as it has room for."""
    options: AskOptions = field(default_factory=AskOptions)


@dataclass(frozen=True, eq=False)
class Asked:
    """A request with its files opened. ``durations`` are seconds by video id."""

    request: Request
    library: FeatureFolder | VideoIndex
    plan: Plan
    durations: Mapping[str, float]

    def seconds(self, vid: str, clips: int, query: Query) -> float | None:
        """Duration of a query's video, of ``clips`` clips before down-sampling; None where nothing tells it."""
        known = by_video(self.durations, vid) or query.seconds
        if known is None and self.request.clip_seconds is not None:
            return self.request.clip_seconds * clips
        return known


class Listener:
    """Hears what happens in a run. The base class ignores all events."""

    def skipped(self, error: ImgDeployError) -> None:
        """A video, a query or a pair cannot be used. Raising stops the run."""

    def remark(self, text: str) -> None:
        """Something about a video or a query that is used all the same."""

    def encoded(self, query: EncodedQuery) -> None:
        """A query is encoded; it knows of unknown and of cut words."""

    def begin(self, total: int, done: int) -> None:
        """So much is to be done, of which an earlier run has done some."""

    def settled(self, number: int) -> None:
        """So much more is done, or left out."""
