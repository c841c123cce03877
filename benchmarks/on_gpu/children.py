"""Steps in child processes: an end at the deadline, and a fresh child after a crash."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from img_deploy.benchmarks.on_gpu.record import BEGUN, FAILED, SKIPPED, Results
from img_deploy.errors import one_line

OUT_OF_TIME = "out of time"
GO_ON = 3
"""Exit code of a child that wants a fresh one to go on with the next case."""


def run_in_children(
    command: Sequence[str], step: str, results: Results, seconds: float, extra: Mapping[str, str], op: str | None = None
) -> None:
    """Run a step's command until it ends well or its time is up, with a fresh child after each crash.

    A case that was begun and not ended gets an end here.

    Args:
        command: of a child, which adds to ``results`` and leaves out what was begun; ends with 0 when all is done.
        extra: environment variables.
        op: the children run this op's cases alone.
    """
    deadline = time.monotonic() + seconds
    where = {"op": op} if op else {}
    while True:
        status, last = _child(command, deadline - time.monotonic(), extra)
        begun = [
            e for e in results.entries() if (e.step, e.outcome) == (step, BEGUN) and op in (None, e.case.get("op"))
        ]
        for entry in begun:
            if status is None:
                results.add(step, entry.case, SKIPPED, why=OUT_OF_TIME)
            else:
                results.add(step, entry.case, FAILED, why=f"its process ended with {_told(status)}{last}")
        if status is None:
            results.add(step, {**where, "rest": "what was not begun"}, SKIPPED, why=OUT_OF_TIME)
            return
        if status == 0:
            return
        if status != GO_ON and not begun:  # before the first case, or a tool that watched them all
            results.add(step, where, FAILED, why=f"{_told(status)}{last}")
            return


def _told(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {status}"


def _child(command: Sequence[str], seconds: float, extra: Mapping[str, str]) -> tuple[int | None, str]:
    """Exit status, None where the time was up; and the last line of what it said."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # left open: the child ends where it is closed
            stdout=said,
            stderr=said,
            env={**os.environ, **extra},
            start_new_session=True,  # compilers have processes of their own, which end with it
        )
        try:
            status: int | None = process.wait(max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()]
    return status, f": {one_line(lines[-1], 200)}" if lines else ""
