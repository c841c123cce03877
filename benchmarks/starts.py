"""From nothing to the first answer: cold in a fresh process, warm in one that has answered before.

``python -m img_deploy.benchmarks.starts`` is the fresh process: it prints one line of JSON and needs no more than
what a program that answers needs. "Cold" is a process without anything loaded; the files are in the system's memory.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from img_deploy.errors import BackendError

COLD = ("interpreter", "imports", "load", "first_answer")
"""Stages of a cold start: Python itself; this package; the bundle, with the backend's own packages; one query on one
video."""
WARM = ("load", "first_answer")
"""Stages of a second start in the same process."""

LIMIT_S = 600


@dataclass(frozen=True)
class StartResult:
    """Medians of the starts of one backend, in milliseconds."""

    backend: str
    count: int
    """Fresh processes."""
    cold: dict[str, float]
    """``COLD`` and ``total``, the median of the sums."""
    warm: dict[str, float]
    """``WARM`` and ``total``."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_starts(
    bundle: str, backend: str, clips: int, words: int, threads: int | None = None, count: int = 3
) -> StartResult:
    """Start ``count`` fresh processes, one after the other.

    Args:
        bundle: folder of the bundle.
        backend: what ``load_bundle`` takes, ``onnxruntime:cpu``.
        clips, words: size of the one pair that is answered.

    Raises:
        BackendError: a process failed; the message is its own.
    """
    found = [_start(bundle, backend, clips, words, threads) for _ in range(count)]
    return StartResult(
        backend, count, _medians([one["cold"] for one in found], COLD), _medians([one["warm"] for one in found], WARM)
    )


def _medians(starts: Sequence[dict[str, float]], stages: Sequence[str]) -> dict[str, float]:
    medians = {stage: median(start[stage] for start in starts) for stage in stages}
    return medians | {"total": median(sum(start[stage] for stage in stages) for start in starts)}


def _start(bundle: str, backend: str, clips: int, words: int, threads: int | None) -> dict[str, dict[str, float]]:
    arguments = [bundle, backend, str(clips), str(words), str(threads or 0)]
    # The wall clock is the one clock that both processes read alike.
    command = [sys.executable, "-m", "img_deploy.benchmarks.starts", *arguments, repr(time.time())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BackendError(f"backend {backend}: no answer within {LIMIT_S} seconds of its start") from None
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BackendError(f"backend {backend}: a fresh process did not answer ({lines[-1][:300]})") from None


def _child(bundle: str, backend: str, clips: str, words: str, threads: str, started: str) -> None:
    begin = time.time()
    import numpy as np

    from img_deploy.runtime.predictor import load_bundle

    imported = time.time()

    def start() -> dict[str, float]:
        times = [time.perf_counter()]
        predictor = load_bundle(bundle, backend, int(threads) or None)
        times.append(time.perf_counter())
        random = np.random.default_rng(0)
        video = random.standard_normal((int(clips), predictor.rules.video.width), np.float32)
        audio = random.standard_normal((int(clips), predictor.rules.audio.width), np.float32)
        text = predictor.rules.text
        tokens = None if text is None else random.standard_normal((int(words), text.width), np.float32)
        times.append(time.perf_counter())
        query = predictor.encode_query("thing " * int(words) if tokens is None else tokens)
        predictor.ground(predictor.encode_video(video, audio), query)
        times.append(time.perf_counter())
        predictor.close()
        return {"load": 1000 * (times[1] - times[0]), "first_answer": 1000 * (times[3] - times[2])}

    before = {"interpreter": 1000 * (begin - float(started)), "imports": 1000 * (imported - begin)}
    print(json.dumps({"cold": before | start(), "warm": start()}))


if __name__ == "__main__":
    _child(*sys.argv[1:])
