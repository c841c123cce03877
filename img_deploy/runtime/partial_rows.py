"""``OUT.partial``: the rows of a jsonl run that is not done, kept so that the run can be resumed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from img_deploy.errors import InputError
from img_deploy.files import write_text
from img_deploy.runtime.results import RowKey

SOURCES = "sources"
"""Key of the videos' features in the file of settings."""


class PartialRows:
    """The rows so far of one run, open for appending.

    ``OUT.partial.settings`` beside it holds the settings of the run, so that a run with others cannot be
    mixed in. Both are gone after :meth:`finish`.

    Args:
        out: the file that the rows become.
        resume: go on after the rows of an interrupted run, if there is one.
        settings: what the rows depend on (bundle, top-k, ...), as JSON types.
        sources: video -> what tells its features from changed ones.

    Raises:
        InputError: there are rows of another run and ``resume`` is False, they were made with other settings or of
            other features, they are damaged, or another process is writing them.
    """

    def __init__(
        self, out: Path, resume: bool, settings: Mapping[str, Any] | None, sources: Mapping[str, str] | None = None
    ) -> None:
        self._out = out
        self._path = out.with_name(out.name + ".partial")
        self._settings_path = out.with_name(out.name + ".partial.settings")
        self.done: set[RowKey] = set()
        """Keys of the rows that are there already."""
        self.file: BinaryIO = self._path.open("r+b" if self._path.exists() else "xb")
        self._lock()
        try:
            if os.fstat(self.file.fileno()).st_size:
                self._continue(resume, settings, sources or {})
            else:
                # Before the first row, so that no row is ever without the settings it was made with.
                write_text(self._settings_path, json.dumps({**(settings or {}), SOURCES: dict(sources or {})}))
        except BaseException:
            self.abandon()
            raise

    def _continue(self, resume: bool, settings: Mapping[str, Any] | None, sources: Mapping[str, str]) -> None:
        if not resume:
            raise InputError(
                f"{self._path}: holds the rows of an interrupted run; pass --resume to go on with it, or remove "
                f"the file to start over"
            )
        before = self._check_settings(settings)
        end = self._read_done()
        for vid in dict.fromkeys(vid for vid, _, _ in self.done):
            if vid in before and before[vid] != sources.get(vid):
                raise InputError(
                    f"{self._path}: the features of {vid} changed since it was begun; remove it to start over, or put "
                    "the old features back"
                )
        self.file.truncate(end)
        self.file.seek(0, os.SEEK_END)

    def finish(self) -> None:
        """Give the rows their final name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        os.replace(self._path, self._out)  # before the lock goes with the open file
        self.file.close()
        self._settings_path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close and keep the rows for a later run; nothing is kept of a run without rows."""
        try:
            self.file.close()
        finally:
            if self._path.exists() and self._path.stat().st_size == 0:
                self._path.unlink()
                self._settings_path.unlink(missing_ok=True)

    def _check_settings(self, settings: Mapping[str, Any] | None) -> dict[str, str]:
        """Refuse other settings; returns the sources that the run was begun with."""
        if settings is None or not self._settings_path.exists():
            return {}
        now = json.loads(json.dumps(dict(settings)))
        try:
            then = json.loads(self._settings_path.read_bytes())
            sources = then.pop(SOURCES, {})
        except (ValueError, AttributeError, TypeError):
            sources = None
        if not isinstance(sources, dict):
            raise InputError(f"{self._settings_path}: not a JSON object; remove it and {self._path} to start over")
        changed = [
            f"{name} {then.get(name)!r} (now {now.get(name)!r})"
            for name in sorted({*now, *then})
            if now.get(name) != then.get(name)
        ]
        if changed:
            raise InputError(
                f"{self._path}: was begun with {', '.join(changed)}; use the same options, or remove it to start over"
            )
        return sources

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise InputError(f"{self._path}: another run is writing it; wait for it or give another --out") from None
        except OSError:  # a file system without locks
            return

    def _read_done(self) -> int:
        """Collect the keys of whole rows; returns the byte at which they end.

        The last row may be torn (no line break, or blocks that never reached the disk): it is left out, and
        so written again. A damaged row before others is the work of someone else.
        """
        end = 0
        damaged = 0
        for number, line in enumerate(self.file, 1):
            if damaged:
                raise InputError(f"{self._path}: line {damaged} is not a row of answers; remove the file to start over")
            key = _key(line) if line.endswith(b"\n") else None
            if key is None:
                damaged = number
            else:
                self.done.add(key)
                end += len(line)
        return end


def _key(line: bytes) -> RowKey | None:
    try:
        row = json.loads(line)
        vid, qid, query = row["vid"], row["qid"], row["query"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(vid, str) or not isinstance(query, str) or not (qid is None or isinstance(qid, int)):
        return None
    return vid, qid, query
