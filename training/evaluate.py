"""What a set of answers is worth: scores of each head with intervals, by sound and by moment length."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from img_deploy.training.answers import Answers
from img_deploy.training.metrics import (
    Interval,
    RatioBin,
    bootstrap_intervals,
    by_moment_ratio,
    summarise,
)

GROUPS = ("all", "with audio", "without audio")
HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class HeadScores:
    """One head on one group of queries."""

    head: str
    group: str
    queries: int
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set of answers, in percent.

    On the group ``all`` the fused head's answer to a video without sound is the visual head's, as at inference.
    """

    scores: tuple[HeadScores, ...]
    ratio_bins: dict[str, list[RatioBin]]
    """By head, in five bins of moment length over video length (the paper's Figure 5)."""
    importance_counts: tuple[int, ...]
    """Histogram of audio importance in equal bins of 0..1, over queries with sound."""
    queries: int
    videos: int
    left_out: int
    """Annotated queries whose video has no features: not scored."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def evaluate_answers(answers: Answers, resamples: int = 1000, seed: int = 0) -> Evaluation:
    """Score answers.

    Args:
        resamples: of the bootstrap over videos (95% intervals).
    """
    queries = answers.queries
    groups = {"all": np.ones(len(queries), bool), "with audio": answers.has_audio, "without audio": ~answers.has_audio}
    scores, bins = [], {}
    vids = np.array(queries.vids)
    windows, durations = queries.windows, queries.durations
    for head in answers.windows:
        ious = answers.ious(head)
        answered = ~np.isnan(ious)
        for group, inside in groups.items():
            # Where every query has sound (or none has), a group repeats "all" or is empty.
            rows = inside & answered
            if not rows.any() or (head == "audio" and group == "all") or (head == "fused" and group == GROUPS[2]):
                continue
            intervals = bootstrap_intervals(ious[rows], vids[rows].tolist(), seed, resamples)
            scores.append(HeadScores(head, group, int(rows.sum()), intervals))
        if answered.any():
            bins[head] = by_moment_ratio(
                ious[answered], windows[answered, 0], windows[answered, 1], durations[answered]
            )
    has_audio = answers.importance[~np.isnan(answers.importance)]
    counts = np.histogram(has_audio, HISTOGRAM_BINS, (0.0, 1.0))[0]
    return Evaluation(
        tuple(scores),
        bins,
        tuple(counts.tolist()),
        len(queries),
        len(set(queries.vids)),
        queries.absent,
    )


def quick_scores(answers: Answers) -> dict[str, float]:
    """``fused/R1@0.5`` and so on, for logs and for the choice of a checkpoint: no intervals."""
    found: dict[str, float] = {}
    for head in answers.windows:
        ious = answers.ious(head)
        if (answered := ~np.isnan(ious)).any():
            found |= {f"{head}/{name}": value for name, value in summarise(ious[answered]).items()}
    has_audio = ~np.isnan(answers.importance)
    if has_audio.any():
        found["importance"] = float(answers.importance[has_audio].mean())
    return found
