"""Pictures of an evaluation, as PNG files."""

from pathlib import Path
from typing import TYPE_CHECKING

from img_deploy.files import replacing_file
from img_deploy.training.evaluate import HISTOGRAM_BINS, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"fused": "#4c72b0", "visual": "#dd8452", "audio": "#55a868"}
GREY = "#8c8c8c"


def write_plots(evaluation: Evaluation, folder: Path, title: str = "") -> list[Path]:
    """Write ``heads.png``, ``moment_length.png`` and, where videos have sound, ``importance.png``.

    Raises OSError where ``folder`` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [
        save_figure(_heads(evaluation, title), folder / "heads.png"),
        save_figure(_moment_length(evaluation, title), folder / "moment_length.png"),
    ]
    if any(evaluation.importance_counts):
        written.append(save_figure(_importance(evaluation, title), folder / "importance.png"))
    return written


def new_figure(width: float, height: float) -> "Figure":
    """A figure of its own, not pyplot's: nothing global, and no display is looked for."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def plain(axes: "Axes") -> "Axes":
    """Axes without the frame's upper right half, with light horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    return axes


def save_figure(figure: "Figure", path: Path) -> Path:
    """Write a PNG, atomically. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing_file(path) as stream:
        FigureCanvasAgg(figure).print_png(stream)
    return path


def _heads(evaluation: Evaluation, title: str) -> "Figure":
    groups = [group for group in ("with audio", "without audio") if any(s.group == group for s in evaluation.scores)]
    figure = new_figure(4.2 * len(groups) + 1, 3.8)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False, sharey=True)[0], groups, strict=True):
        plain(axes)
        own = [scores for scores in evaluation.scores if scores.group == group]
        width = 0.8 / len(own)
        for number, scores in enumerate(own):
            values = [m.value for m in scores.metrics.values()]
            low = [m.value - m.low for m in scores.metrics.values()]
            high = [m.high - m.value for m in scores.metrics.values()]
            places = [k + (number - (len(own) - 1) / 2) * width for k in range(len(values))]
            axes.bar(places, values, width * 0.92, label=scores.head, color=COLOURS[scores.head])
            axes.errorbar(places, values, [low, high], fmt="none", ecolor="0.25", elinewidth=1, capsize=2)
        axes.set_xticks(range(len(own[0].metrics)), list(own[0].metrics))
        axes.set_title(f"{group}, {own[0].queries} queries", fontsize=10)
        axes.set_ylim(0, 100)
    figure.axes[0].set_ylabel("percent, 95% interval over videos")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def _moment_length(evaluation: Evaluation, title: str) -> "Figure":
    figure = new_figure(6.4, 3.8)
    axes = plain(figure.subplots())
    for head, bins in evaluation.ratio_bins.items():
        filled = [(k, part) for k, part in enumerate(bins) if part.metrics]
        values = [part.metrics["R1@0.5"] for _, part in filled if part.metrics]
        axes.plot([k for k, _ in filled], values, "o-", color=COLOURS[head], label=head)
    some = next(iter(evaluation.ratio_bins.values()))
    labels = [f"{part.low:.1f} to {part.high:.1f}\n{part.queries} queries" for part in some]
    axes.set_xticks(range(len(some)), labels, fontsize=8)
    axes.set(ylim=(0, 102), ylabel="R1@0.5, percent", xlabel="length of the moment over length of the video")
    axes.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def _importance(evaluation: Evaluation, title: str) -> "Figure":
    figure = new_figure(5.6, 3.4)
    axes = plain(figure.subplots())
    total = sum(evaluation.importance_counts)
    places = [(k + 0.5) / HISTOGRAM_BINS for k in range(HISTOGRAM_BINS)]
    shares = [100 * count / total for count in evaluation.importance_counts]
    axes.bar(places, shares, 0.92 / HISTOGRAM_BINS, color=COLOURS["audio"])
    axes.set(xlim=(0, 1), xlabel="audio importance", ylabel=f"percent of {total} queries")
    figure.suptitle(title, fontsize=10)
    return figure
