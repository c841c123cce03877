"""The community's files: predictions and ground truth as JSON lines, for moment_detr's ``standalone_eval`` and forks.

One JSON object per query, windows in seconds, under the ids that the ``tvr_format.jsonl`` files carry. Predictions
have no ``pred_saliency_scores``: for Charades-STA and ActivityNet those evaluators would look for saliency annotations
that do not exist.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from img_deploy.errors import InputError
from img_deploy.files import write_text
from img_deploy.training.answers import Answers
from img_deploy.training.tasks import Task


def write_predictions(path: Path, task: Task, answers: Answers) -> int:
    """The fused head's answers: ``{"qid", "query", "vid", "pred_relevant_windows": [[start, end, score]]}``.

    Returns the number of lines. Raises AnnotationError where the ids cannot be found, InputError where the file
    cannot be written.
    """
    samples = answers.queries.samples
    ids = task.submission_ids(samples)
    found = zip(samples, answers.windows["fused"].tolist(), answers.scores.tolist(), strict=True)
    return _write(
        path,
        (
            {"qid": ids[one.qid], "query": one.query, "vid": one.vid, "pred_relevant_windows": [[*window, score]]}
            for one, window, score in found
        ),
    )


def write_ground_truth(path: Path, task: Task, answers: Answers) -> int:
    """The same queries as annotated: ``{"qid", "query", "duration", "vid", "relevant_windows"}``; likewise.

    Windows are cut to 0..duration, as the published files' are.
    """
    samples = answers.queries.samples
    ids = task.submission_ids(samples)
    return _write(
        path,
        (
            {
                "qid": ids[one.qid],
                "query": one.query,
                "duration": one.duration,
                "vid": one.vid,
                "relevant_windows": [list(window) for window in one.windows],
            }
            for one in samples
        ),
    )


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    ordered = sorted(rows, key=lambda row: row["qid"])
    try:
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another file") from None
    return len(ordered)
