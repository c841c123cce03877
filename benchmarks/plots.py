"""A picture of a profile: latency against batch size and against length."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from img_deploy.benchmarks.latency import CaseResult
from img_deploy.files import replacing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860")
MARKERS = ("o", "s", "^", "D", "v", "P")


def plot_latency(cases: Sequence[CaseResult], path: Path, subtitle: str = "") -> None:
    """Write a PNG: p50 as a line per backend, up to p90 as a band.

    Args:
        cases: a profile's cases; the left picture takes those of the longest videos, the right one those of the
            smallest batch.
        path: file to write, atomically.
        subtitle: one line below the title: machine and versions.

    Raises OSError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longest, smallest = max(case.clips for case in cases), min(case.batch for case in cases)
    # A figure of its own, not pyplot's: nothing global, and no display is looked for.
    figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, [case for case in cases if case.clips == longest], lambda case: case.batch)
    left.set(title=f"videos of {longest} clips", xlabel="batch size (pairs)", ylabel="latency of the batch, ms")
    _draw(right, [case for case in cases if case.batch == smallest], lambda case: case.clips)
    right.set(title=f"batch size {smallest}", xlabel="length of the video (clips)", ylabel="latency, ms")
    left.legend(title="p50, band up to p90", fontsize=9, title_fontsize=9)
    figure.suptitle("From features and a sentence to the moment", fontsize=12)
    if subtitle:
        figure.supxlabel(fill(subtitle, 150), fontsize=7, color="0.35")
    with replacing_file(path) as stream:
        FigureCanvasAgg(figure).print_png(stream)


def _draw(axes: "Axes", cases: Sequence[CaseResult], position: Callable[[CaseResult], int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    labels = list(dict.fromkeys(case.backend for case in cases))
    for number, label in enumerate(labels):
        own = sorted((case for case in cases if case.backend == label), key=position)
        x = [position(case) for case in own]
        p50, p90 = [case.latency.p50 for case in own], [case.latency.p90 for case in own]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(x, p50, color=colour, marker=MARKERS[number % len(MARKERS)], label=label, linewidth=1.8)
        if len(own) > 1:
            axes.fill_between(x, p50, p90, color=colour, alpha=0.18, linewidth=0)
        else:
            axes.vlines(x, p50, p90, color=colour, alpha=0.4)
    ticks = sorted({position(case) for case in cases})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    _scale_y(axes, [case.latency.p50 for case in cases])
    axes.grid(alpha=0.25)


def _scale_y(axes: "Axes", values: Sequence[float]) -> None:
    """From zero, so that heights compare; in powers of two where the slowest would flatten the others."""
    from matplotlib.ticker import NullLocator, ScalarFormatter

    if max(values) < 12 * min(values):
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
