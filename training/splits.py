"""The annotated queries of one split: which of them are used, and a remark about every other."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from img_deploy.annotations import Sample
from img_deploy.errors import InputError, QueryError
from img_deploy.text.tokens import MAX_WORDS, Words, tokenize
from img_deploy.training.constants import SplitName
from img_deploy.training.tasks import Task

SHOWN = 3
"""Rows or videos that a remark names."""


@dataclass
class Split:
    """Queries of a split that are still used."""

    file: str
    name: str
    samples: list[Sample]
    notes: list[str] = field(default_factory=list)
    """What was left out or changed and why, a line each."""
    absent: int = 0
    """Queries dropped."""

    @classmethod
    def read(cls, task: Task, name: SplitName) -> "Split":
        """All rows with a usable moment. Raises AnnotationError: a file is missing or malformed, or has none."""
        notes: list[str] = []
        return cls(str(task.file(name)), name, task.read(name, notes), notes)

    def drop(self, reasons: Mapping[Any, str], key: str) -> None:
        """Leave out the queries whose ``key`` (vid or qid) is among ``reasons``.

        Raises:
            InputError: then none is left.
        """
        dropped = [sample for sample in self.samples if getattr(sample, key) in reasons]
        if not dropped:
            return
        named = list(dict.fromkeys(getattr(sample, key) for sample in dropped))
        some = ", ".join(map(str, named[:SHOWN])) + (f", ... {len(named)} in all" if len(named) > SHOWN else "")
        what = {"vid": "video", "qid": "token features"}[key]
        note = (
            f"{self.file}: {len(dropped)} of {len(self.samples)} queries of the {self.name} split are left out "
            f"({what} {some}): {reasons[named[0]]}"
        )
        if len(dropped) == len(self.samples):
            raise InputError(note)
        self.notes.append(note)
        self.samples = [sample for sample in self.samples if getattr(sample, key) not in reasons]
        self.absent += len(dropped)

    def tokenize(self) -> dict[str, Words]:
        """The words of each different sentence. What has none is dropped; what is too long is cut, with a remark."""
        words, cut = {}, []
        for sample in self.samples:
            try:
                words[sample.query] = found = tokenize(sample.query)
            except QueryError as error:
                self.notes.append(f"{self.file}:{sample.row}: {error}; left out")
                continue
            if found.cut:
                cut.append((sample.row, MAX_WORDS + found.cut))
        self.absent += sum(sample.query not in words for sample in self.samples)
        self.samples = [sample for sample in self.samples if sample.query in words]
        if not self.samples:
            raise InputError(f"{self.notes[-1]}, and so are all others")
        if cut:
            row, count = cut[0]
            more = f" (so in {len(cut) - 1} more rows)" if cut[1:] else ""
            self.notes.append(
                f"{self.file}:{row}: no error, but of the sentence's {count} words the first {MAX_WORDS} are used, "
                f"as in the paper's code{more}"
            )
        return words
