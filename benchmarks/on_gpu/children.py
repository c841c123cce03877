"""Running a step in child processes: results as they come, an end at the deadline, and a fresh child after a crash."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

from img_deploy.benchmarks.on_gpu.worker import Case, Request

WORKER = (sys.executable, "-m", "img_deploy.benchmarks.on_gpu.worker")
OUT_OF_TIME = "out of time"
Report = Callable[[Case, str, Any], None]
"""Called with a case, ``done``, ``failed`` or ``skipped``, and its record or the reason."""


class Budget:
    """Seconds that the whole run may take.

    >>> Budget(10, clock=lambda: 0.0).left()
    10.0
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin, self._seconds = clock(), float(seconds)

    def spent(self) -> float:
        return self._clock() - self._begin

    def left(self, cap: float = float("inf")) -> float:
        """What is left, at most ``cap``, at least 0."""
        return max(0.0, min(cap, self._seconds - self.spent()))


def run_step(
    step: str,
    kind: str,
    cases: Sequence[Case],
    seconds: float,
    report: Report,
    worker: Sequence[str] = WORKER,
) -> None:
    """Run a step's cases, one after the other, and report each exactly once.

    Args:
        kind: ``cuda`` or ``cpu``.
        seconds: the child is ended after these; what it did not finish is skipped.
        report: called from this thread's helpers, never twice at a time.
        worker: command of the child.
    """
    deadline = time.monotonic() + seconds
    left = list(cases)
    while left:
        remaining = deadline - time.monotonic()
        if remaining <= 1:
            for case in left:
                report(case, "skipped", OUT_OF_TIME)
            return
        child = _Child(Request(step, kind, left, remaining), report, worker)
        left = child.run(remaining)


class _Child:
    """One child process and what it has told so far."""

    def __init__(self, request: Request, report: Report, worker: Sequence[str]) -> None:
        self._request, self._report, self._worker = request, report, worker
        self._told: set[int] = set()
        self._begun: int | None = None

    def run(self, seconds: float) -> list[Case]:
        """The cases that another child should be tried for."""
        with tempfile.TemporaryFile("w+") as errors:
            ended = self._wait(errors, seconds)
            errors.seek(0)
            last = [line.strip() for line in errors.read().splitlines() if line.strip()][-1:]
        rest = [case for index, case in enumerate(self._request.cases) if index not in self._told]
        if ended is None:
            for case in rest:
                self._report(case, "skipped", OUT_OF_TIME)
            return []
        if ended == 0:  # its time was up before the next case
            for case in rest:
                self._report(case, "skipped", OUT_OF_TIME)
            return []
        if self._begun is not None and self._begun not in self._told:
            self._report(self._request.cases[self._begun], "failed", _crash(ended, last))
            self._told.add(self._begun)
        elif self._begun is None:  # it did not even begin: the next one would not either
            for case in rest:
                self._report(case, "failed", _crash(ended, last))
            return []
        return [case for index, case in enumerate(self._request.cases) if index not in self._told]

    def _wait(self, errors: TextIO, seconds: float) -> int | None:
        """Exit status; None where the time was up."""
        process = subprocess.Popen(
            self._worker,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(self._request.kind),
            start_new_session=True,  # compilers have processes of their own, which end with it
        )
        assert process.stdin is not None
        assert process.stdout is not None
        reader = threading.Thread(target=self._read, args=(process.stdout,))
        reader.start()
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(self._request)) + "\n")
            process.stdin.flush()  # and left open: the child ends where it is closed
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reader.join()
            with suppress(BrokenPipeError):
                process.stdin.close()

    def _read(self, lines: TextIO) -> None:
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:  # cut off when the child was ended
                continue
            if "begin" in line:
                self._begun = line["begin"]
                continue
            index = line.get("done", line.get("failed"))
            outcome = "done" if "done" in line else "failed"
            self._told.add(index)
            self._report(self._request.cases[index], outcome, line.get("record", line.get("why")))


def _environment(kind: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return environment | ({"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if kind == "cpu" else {})


def _crash(status: int, last: Sequence[str]) -> str:
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    return f"its process ended with {how}" + (f": {last[0][:200]}" if last else "")
