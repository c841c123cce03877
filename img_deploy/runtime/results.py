"""What an answer holds, and the row it becomes in a file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from img_deploy.runtime.spans import ScoredSpan, span_to_window

Head = Literal["fused", "visual"]

RowKey = tuple[str, int | None, str]
"""What tells one answer of a run from another: vid, qid, query."""


@dataclass(frozen=True)
class Moment:
    """One interval of a video that a query may mean."""

    span: tuple[int, int]
    """First and last clip, both inclusive."""
    score: float
    """Product of the probabilities of its start and its end."""
    fraction: tuple[float, float]
    """Start and end as fractions of the video."""
    window: tuple[float, float] | None
    """Start and end in seconds; None where the video's duration is not known."""


def moments_of(spans: Iterable[ScoredSpan], clips: int, duration: float | None) -> tuple[Moment, ...]:
    """Moments of one sample's decoded spans, in their order.

    Raises InputError where ``duration`` (seconds) is not a positive number.

    >>> moments_of([(0, 1, 0.5)], clips=4, duration=20.0)
    (Moment(span=(0, 1), score=0.5, fraction=(0.0, 0.5), window=(0.0, 10.0)),)
    """
    found = []
    for i, j, score in spans:
        window = None if duration is None else span_to_window((i, j), clips, duration)
        found.append(Moment((i, j), score, (i / clips, (j + 1) / clips), window))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one query on one video."""

    vid: str
    query: str
    qid: int | None
    head: Head
    """``visual`` where the video has no sound."""
    clips: int
    """L, the video's clips after down-sampling."""
    duration: float | None
    """Seconds, where known."""
    importance: float | None
    """How much the answer weighs the sound, 0 to 1; None from the visual head."""
    moments: tuple[Moment, ...]
    """Best first; at least one."""
    saliency: NDArray[np.float32]
    """[L], of the stream that answered."""
    saliency_visual: NDArray[np.float32] | None = None
    """[L]; None from the visual head."""
    saliency_audio: NDArray[np.float32] | None = None
    """[L]; None from the visual head."""
    rank: int | None = None
    """Place among the best moments of a library, from 1; None where there is no such ranking."""

    def __post_init__(self) -> None:
        if not self.moments:
            raise ValueError("got an answer without moments")
        for moment in self.moments:
            if (moment.window is None) != (self.duration is None):
                raise ValueError("got moments in seconds without a duration, or the other way round")

    @property
    def best(self) -> Moment:
        """The moment of rank 1."""
        return self.moments[0]

    def lift(self, moment: Moment) -> float:
        """How many times likelier than chance: a moment's score over that of a span drawn at random.

        Unlike the score it does not favour short videos (the only span of a single clip scores 1).
        """
        return moment.score * self.clips * (self.clips + 1) / 2

    @property
    def key(self) -> RowKey:
        """What :class:`~img_deploy.runtime.writers.RowWriter` knows this answer by when a run resumes."""
        return self.vid, None if self.qid is None else int(self.qid), self.query

    def to_row(self) -> dict[str, Any]:
        """The answer in plain Python types, with the keys of the field's prediction files.

        ``pred_relevant_windows`` is [[start, end, score], ...] in seconds, best first, and absent where the
        duration is not known. ``fractions`` holds the same as fractions of the video, ``spans`` as clips.
        ``rank`` and ``times_chance`` (:meth:`lift`) stand in the rows of a ranking alone.
        ``pred_saliency_scores`` is left out: evaluators that see it look for saliency ground truth.
        """
        row: dict[str, Any] = {
            "qid": None if self.qid is None else int(self.qid),
            "query": self.query,
            "vid": self.vid,
        }
        if self.rank is not None:
            row |= {"rank": self.rank, "times_chance": self.lift(self.best)}
        if self.duration is not None:
            row["pred_relevant_windows"] = [
                [float(m.window[0]), float(m.window[1]), float(m.score)] for m in self.moments if m.window
            ]
        return row | {
            "duration": None if self.duration is None else float(self.duration),
            "clips": int(self.clips),
            "head": self.head,
            "importance": None if self.importance is None else float(self.importance),
            "spans": [[int(m.span[0]), int(m.span[1])] for m in self.moments],
            "fractions": [[float(m.fraction[0]), float(m.fraction[1]), float(m.score)] for m in self.moments],
        }
