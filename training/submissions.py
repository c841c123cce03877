"""The community's files: predictions and ground truth as JSON lines, for moment_detr's ``standalone_eval`` and forks.

One JSON object per line, windows in seconds. Predictions carry no ``pred_saliency_scores``: for Charades-STA and
ActivityNet those evaluators would look for saliency annotations that do not exist.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img_deploy.errors import AnnotationError, InputError
from img_deploy.training.metrics import best_iou

if TYPE_CHECKING:
    from img_deploy.annotations import Sample


@dataclass(frozen=True)
class Prediction:
    """The windows found for one query, best first: (start, end, score), seconds. ``qid`` in the tvr numbering."""

    qid: int
    query: str
    vid: str
    windows: tuple[tuple[float, float, float], ...]


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> int:
    """Write ``{"qid", "query", "vid", "pred_relevant_windows": [[start, end, score], ...]}`` lines; return how many.

    Raises:
        InputError: a query id occurs twice, has no window, or a number that is not finite.
    """
    seen: set[int] = set()
    rows = []
    for prediction in predictions:
        if prediction.qid in seen:
            raise InputError(f"predictions: got query id {prediction.qid} twice, expected it once")
        seen.add(prediction.qid)
        rows.append(
            {
                "qid": prediction.qid,
                "query": prediction.query,
                "vid": prediction.vid,
                "pred_relevant_windows": _checked_windows(prediction.windows, f"query {prediction.qid}"),
            }
        )
    return _write_lines(path, rows)


def read_predictions(path: Path) -> list[Prediction]:
    """Inverse of :func:`write_predictions`; also reads other programs' files in this format, extra keys ignored.

    Raises:
        InputError: the file cannot be read, or a line is not such a row (named with its number).
    """
    predictions: list[Prediction] = []
    seen: set[int] = set()
    for where, row in _read_lines(path):
        try:
            windows = _checked_windows(row["pred_relevant_windows"], where)
            prediction = Prediction(
                int(row["qid"]),
                str(row.get("query", "")),
                str(row.get("vid", "")),
                tuple((start, end, score) for start, end, score in windows),
            )
        except (KeyError, TypeError, ValueError) as error:
            wanted = '{"qid": int, "pred_relevant_windows": [[start, end, score], ...]}'
            raise InputError(f"{where}: got a row that is no prediction ({error!r}), expected {wanted}") from None
        if prediction.qid in seen:
            raise InputError(f"{where}: got query id {prediction.qid} a second time, expected it once")
        seen.add(prediction.qid)
        predictions.append(prediction)
    return predictions


def write_ground_truth(path: Path, samples: Iterable["Sample"]) -> int:
    """Write ``{"qid", "query", "duration", "vid", "relevant_windows"}`` lines; return their number.

    Windows are cut to 0..duration, as the published files are.

    Raises:
        AnnotationError: a sample has no duration.
    """
    rows = []
    for sample in samples:
        if sample.duration is None:
            raise AnnotationError(
                f"query {sample.qid}: got no duration for video {sample.vid}, expected one; give a duration file"
            )
        windows = [[max(0.0, start), min(end, sample.duration)] for start, end in sample.windows]
        rows.append(
            {
                "qid": sample.qid,
                "query": sample.query,
                "duration": sample.duration,
                "vid": sample.vid,
                "relevant_windows": windows,
            }
        )
    return _write_lines(path, rows)


def score_predictions(
    predictions: Sequence[Prediction], windows: Mapping[int, Sequence[Sequence[float]]]
) -> dict[int, float]:
    """IoU of each query's first window with its best-fitting annotated window, by query id.

    Args:
        windows: annotated windows in seconds by query id, cut to their videos.
    Raises:
        InputError: the two do not hold the same queries.
    """
    answered = {prediction.qid for prediction in predictions}
    if missing := sorted(set(windows) - answered):
        raise InputError(
            f"predictions: got none for {len(missing)} annotated queries, first {missing[0]}, expected one for each; "
            "is it the same split and numbering of query ids?"
        )
    if unknown := sorted(answered - set(windows)):
        raise InputError(
            f"predictions: got {len(unknown)} queries that are not annotated, first {unknown[0]}; "
            "is it the same split and numbering of query ids?"
        )
    return {p.qid: best_iou(p.windows[0], windows[p.qid]) for p in predictions}


def _checked_windows(windows: Iterable[Sequence[float]], where: str) -> list[list[float]]:
    checked = [[float(number) for number in window] for window in windows]
    if not checked:
        raise InputError(f"{where}: got no window, expected at least one")
    for window in checked:
        if len(window) != 3 or not all(map(math.isfinite, window)):
            raise InputError(f"{where}: got window {window}, expected [start, end, score], all finite")
    return checked


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> int:
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: got {error.strerror}, expected a file that can be written") from None
    finally:
        temporary.unlink(missing_ok=True)
    return len(rows)


def _read_lines(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: got {error}, expected readable JSON lines") from None
    for number, line in enumerate(text.split("\n"), start=1):  # str.splitlines breaks sentences at U+0085
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number}: got no JSON ({error.msg}), expected one object per line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: got {type(row).__name__}, expected one JSON object per line")
        yield f"{path}:{number}", row
