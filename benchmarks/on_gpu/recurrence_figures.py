"""What the figures of the GRU's loop come to. Needs no kernel."""

from typing import Any

CUDA = "cuda c++"


def us_per_step(ms: Any, clips: int) -> float | None:
    """Median microseconds per clip, of a summary of milliseconds."""
    return None if ms is None else 1000 * float(ms["p50"]) / clips


def winner(loops: dict[str, dict[str, Any]]) -> str | None:
    """Name of the fastest loop; None unless a Triton one and the CUDA one were both timed."""
    timed = {name: loop["ms"]["p50"] for name, loop in loops.items() if loop["ms"] is not None}
    if CUDA not in timed or len(timed) < 2:
        return None
    return min(timed, key=lambda name: timed[name])
