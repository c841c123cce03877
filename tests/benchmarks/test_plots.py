"""Pictures of profiles of every shape."""

from pathlib import Path

import pytest

from img_deploy.benchmarks.latency import CaseResult
from img_deploy.benchmarks.plots import plot_latency
from img_deploy.benchmarks.timing import summarize


def case(backend, batch, clips, milliseconds):
    times = summarize([milliseconds, 1.3 * milliseconds])
    return CaseResult(backend, "fp32", batch, clips, times, times, 1.0, {}, None, None, None, None)


@pytest.mark.parametrize(
    "cases",
    [
        [case("torch:cpu", 1, 32, 150.0)],
        [case("torch:cpu", batch, 128, 100.0 * batch) for batch in (1, 2, 3, 64)],
        [case("torch:cpu", 1, 1, 900.0), case("onnxruntime:cpu", 1, 1, 0.4)],
        [case(f"backend {number}", 1, clips, number + clips) for number in range(9) for clips in (8, 16)],
    ],
    ids=["one case", "one length", "far apart", "many backends"],
)
def test_a_picture_of_any_profile(cases, tmp_path):
    """A profile of one case, or of backends far apart, would end in an error after all its measuring."""
    path = tmp_path / "latency.png"
    plot_latency(cases, path, "machine")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    """A half-written file would pass for a picture."""
    with pytest.raises(OSError, match="nowhere"):
        plot_latency([case("a", 1, 1, 1.0)], Path(tmp_path / "nowhere" / "x.png"))
    assert list(tmp_path.iterdir()) == []
