"""The text of answers in each output format."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Literal, Protocol

from img_deploy.runtime.results import Answer

Format = Literal["jsonl", "csv", "json"]

CSV_COLUMNS = (
    "vid",
    "qid",
    "query",
    "rank",
    "start",
    "end",
    "score",
    "first_clip",
    "last_clip",
    "start_fraction",
    "end_fraction",
    "clips",
    "duration",
    "head",
    "importance",
)
"""One row per moment. ``rank`` counts from 1; ``start``, ``end`` and ``duration`` are seconds, empty where the
duration is not known; clips are inclusive and count from 0; fractions are of the video."""


class RowFormat(Protocol):
    """Text of a file in three parts: ``head``, ``rows`` for each batch, ``tail``."""

    head: str
    tail: str

    def rows(self, answers: Sequence[Answer], first: bool) -> str:
        """Text of some answers; ``first`` says that no answer came before them."""
        ...


class Jsonl:
    """One JSON object per line: the field's prediction format with more keys (``Answer.to_row``)."""

    head = tail = ""

    def rows(self, answers: Sequence[Answer], first: bool) -> str:  # noqa: ARG002
        return "".join(_json(answer) + "\n" for answer in answers)


class JsonList:
    """One JSON list of the same objects."""

    head, tail = "[", "\n]\n"

    def rows(self, answers: Sequence[Answer], first: bool) -> str:
        text = ",\n".join(_json(answer) for answer in answers)
        return ("\n" if first else ",\n") + text if text else ""


class Csv:
    """One line per moment under a header, :data:`CSV_COLUMNS`."""

    head, tail = ",".join(CSV_COLUMNS) + "\n", ""

    def rows(self, answers: Sequence[Answer], first: bool) -> str:  # noqa: ARG002
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        for answer in answers:
            row = answer.to_row()
            windows = row.get("pred_relevant_windows") or [(None, None)] * len(row["spans"])
            moments = zip(windows, row["spans"], row["fractions"], strict=True)
            for rank, (window, span, (start, end, score)) in enumerate(moments, answer.rank or 1):
                place = (rank, *window[:2], score, *span, start, end)
                video = (row["clips"], row["duration"], row["head"], row["importance"])
                lines.writerow((row["vid"], row["qid"], row["query"], *place, *video))
        return text.getvalue()


ROW_FORMATS: dict[str, type[RowFormat]] = {"jsonl": Jsonl, "csv": Csv, "json": JsonList}


def _json(answer: Answer) -> str:
    # ASCII: a query may hold line separators that other readers take for the end of a row.
    return json.dumps(answer.to_row(), allow_nan=False)
