"""Progress of training and of reading features: a bar on a terminal, lines in a file."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from img_deploy.cli.progress_bar import progress_bar
from img_deploy.errors import one_line

if TYPE_CHECKING:
    from img_deploy.training.checkpoint_callback import RunProgress

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class CountBar:
    """A bar that is called with (done, total); a context manager. Shows nothing where standard error is no terminal."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "CountBar":
        if sys.stderr.isatty():
            self._bar = progress_bar()
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            return
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total, unit=self._unit, note="")
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.stop()


class TrainingBar:
    """Listens to a training run: loss and the last scores beside a bar, a line per evaluation."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._logged = time.monotonic()
        self._scores = ""

    def __enter__(self) -> "TrainingBar":
        if sys.stderr.isatty() and not self._quiet:
            self._bar = progress_bar()
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, progress: "RunProgress") -> None:
        rate = progress.samples / progress.seconds if progress.seconds else 0.0
        if progress.scores is not None:
            self._scores = _shown(progress.scores)
            self.log(
                f"step {progress.step} of {progress.total_steps}, epoch {progress.epoch + 1}: "
                f"loss {progress.loss:.2f}, {self._scores}, {rate:.0f} queries/s"
            )
        if self._bar is not None:
            note = f"loss {progress.loss:.2f}  {self._scores}"
            if self._task is None:
                self._task = self._bar.add_task(
                    "training", total=progress.total_steps, unit="steps", note=note, before=progress.step
                )
            self._bar.update(self._task, completed=progress.step, note=note)
        elif time.monotonic() - self._logged > EVERY:
            self.log(f"step {progress.step} of {progress.total_steps}: loss {progress.loss:.2f}, {rate:.0f} queries/s")

    def log(self, text: str) -> None:
        """A line, unless quiet."""
        if self._quiet:
            return
        self._logged = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(one_line(text), markup=False, highlight=False, soft_wrap=True)
        else:
            print(one_line(text), file=sys.stderr, flush=True)

    def progress(self, done: int, total: int) -> None:
        """So many videos of so many are read, on first use of their features."""
        self._count("reading features", "videos", done, total)

    def glove_progress(self, done: int, total: int) -> None:
        """So many bytes of so many of the GloVe file are read."""
        self._count("reading word vectors", "MB", done // 10**6, max(total // 10**6, 1), done == total)

    def _count(self, what: str, unit: str, done: int, total: int, ended: bool = False) -> None:
        if self._bar is None:
            return
        if self._task is None:
            self._task = self._bar.add_task(what, total=total, unit=unit, note="")
        self._bar.update(self._task, completed=done, total=total)
        if ended or done == total:
            self._bar.remove_task(self._task)
            self._task = None


def _shown(scores: dict[str, float]) -> str:
    return f"R1@0.5 {scores['fused/R1@0.5']:.1f}, R1@0.7 {scores['fused/R1@0.7']:.1f}"
