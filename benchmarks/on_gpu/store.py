"""The results of a run, written anew after every case, under another name first: no reader finds half a file."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from img_deploy.errors import InputError

Document = dict[str, Any]


class Store:
    """Cases by step, in ``gpu.json``, and the page made of them, ``gpu.md``. Safe to use from several threads.

    Args:
        folder: where both files go; made if it is not there.
        head: what the run is told by: machine, versions, commit, command.
        page: makes the page of a document.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, head: Document, page: Callable[[Document], str]) -> None:
        self._folder, self._page = folder, page
        self._lock = threading.Lock()
        self.document: Document = {**head, "complete": False, "steps": {}}
        self._write()

    def add(self, step: str, case: dict[str, Any], outcome: str, record: Any) -> None:
        """Keep a case: ``done`` with its record, ``failed`` or ``skipped`` with the reason."""
        entry = {**case, "outcome": outcome}
        entry |= {"record": record} if outcome == "done" else {"why": record}
        with self._lock:
            self.document["steps"].setdefault(step, []).append(entry)
            self._write()

    def put(self, **values: Any) -> None:
        """Set values of the document itself."""
        with self._lock:
            self.document.update(values)
            self._write()

    def _write(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(self._folder / "gpu.json", json.dumps(self.document, indent=1) + "\n")
            _replace(self._folder / "gpu.md", self._page(self.document))
        except OSError as error:
            raise InputError(f"{self._folder}: cannot be written ({error.strerror}); give another --out") from None


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def entries(document: Document, step: str, **match: Any) -> Iterator[dict[str, Any]]:
    """The cases of a step whose values are these."""
    for entry in document["steps"].get(step, ()):
        if all(entry.get(name) == value for name, value in match.items()):
            yield entry


def record_of(document: Document, step: str, **match: Any) -> Any:
    """The record of the one case that was done; None where there is none."""
    return next((entry["record"] for entry in entries(document, step, outcome="done", **match)), None)
