"""The pictures of docs/learning.md."""

from pathlib import Path
from typing import TYPE_CHECKING

from img_deploy.benchmarks.learning.plan import SHARES, TRAINED_SHARES
from img_deploy.benchmarks.learning.results import Figure, Results
from img_deploy.benchmarks.learning.tables import LOOK_ALIKE, SILENT
from img_deploy.training.plots import COLOURS, GREY, new_figure, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN, GATED = "#c44e52", COLOURS["fused"]
"""Without and with the importance predictor."""


def draw_noise(results: Results, path: Path) -> Path:
    """Accuracy and importance against the share of noise, with and without the importance predictor."""
    figure = new_figure(10, 3.9)
    left, right = figure.subplots(1, 2)
    for name, colour, label in (("full", GATED, "with predictor"), ("no importance", PLAIN, "without")):
        tested = {share: results.noised_score(share, "all", "fused", "R1@0.5", name) for share in SHARES}
        trained = {share: results.score("all", "fused", "R1@0.5", name, share) for share in (0.0, *TRAINED_SHARES)}
        _line(left, tested, colour, f"{label}, noise in the test", "-")
        _line(left, trained, colour, f"{label}, in training too", "--")
    _line(left, {share: results.ceiling(share) for share in SHARES}, GREY, "ceiling: guess where sound is lost", ":")
    left.set(title="fused head", ylabel="R@1 at IoU 0.5, percent", ylim=(None, 101))
    groups = (("all", GATED, "all queries"), (LOOK_ALIKE, "#8172b3", "sound decides"), (SILENT, GREY, "silent action"))
    for group, colour, label in groups:
        _line(right, {s: results.noised_importance(s, group) for s in SHARES}, colour, label, "-")
    trained = {share: results.importance("all", "full", share) for share in (0.0, *TRAINED_SHARES)}
    _line(right, trained, GATED, "all queries, noise in training too", "--")
    right.set(title="audio importance", ylabel="mean over queries", ylim=(0, 0.8))
    for axes in (left, right):
        plain(axes).set_xlabel("videos whose audio is noise, percent")
        axes.legend(frameon=False, fontsize=7.5, handlelength=3)
    return save_figure(figure, path)


def draw_history(results: Results, path: Path) -> Path:
    """R@1 at 0.5 of the heads on the validation videos over the steps, a line per seed."""
    figure = new_figure(10, 3.6)
    left, right = figure.subplots(1, 2)
    for name, style in (("full", "-"), ("no distillation", ":")):
        for head in COLOURS:
            for number, result in enumerate(results.of(name)):
                rows = result["history"]
                label = (f"{head}" if name == "full" else f"{head}, {name}") if not number else None
                values = [row[f"{head}/R1@0.5"] for row in rows]
                left.plot([row["step"] for row in rows], values, style, color=COLOURS[head], label=label, lw=1.3)
    left.set(title="validation videos", ylabel="R@1 at IoU 0.5, percent", ylim=(0, 101))
    for number, result in enumerate(results.of("full")):
        rows = result["history"]
        steps, values = [row["step"] for row in rows], [row["importance"] for row in rows]
        right.plot(steps, values, color=GATED, lw=1.3, label=None if number else "full network, a line per seed")
    right.set(title="audio importance, validation videos", ylabel="mean over queries", ylim=(0, 0.8))
    for axes in (left, right):
        plain(axes).set_xlabel("step")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7.5, handlelength=3)
    return save_figure(figure, path)


def draw_heads(results: Results, path: Path) -> Path:
    """The three heads on the kinds of queries: mean as a bar, seeds as dots."""
    groups = (LOOK_ALIKE, SILENT, "own look and sound", "audio is noise", "no audio")
    figure = new_figure(10, 3.4)
    axes = plain(figure.subplots())
    for number, head in enumerate(COLOURS):
        for place, group in enumerate(groups):
            found = results.score(group, head, "R1@0.5")
            if not found.values:
                continue
            at = place + (number - 1) * 0.26
            axes.bar(at, found.mean, 0.24, color=COLOURS[head], label=head if not place else None)
            axes.plot([at] * len(found.values), found.values, ".", color="0.2", ms=4)
    chance = results.chance("R1@0.5")
    if chance.values:
        axes.axhline(chance.mean, color=GREY, ls=":", lw=1.2, label="chance")
    axes.set_xticks(range(len(groups)), groups, fontsize=9)
    axes.set(ylabel="R@1 at IoU 0.5, percent", ylim=(0, 104))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return save_figure(figure, path)


def _line(axes: "Axes", points: dict[float, Figure], colour: str, label: str, style: str) -> None:
    """Means joined by a line, with bars from the least to the greatest; only the points that were measured."""
    there = {share: found for share, found in points.items() if found.values}
    if not there:
        return
    means = [found.mean for found in there.values()]
    low = [found.mean - found.low for found in there.values()]
    high = [found.high - found.mean for found in there.values()]
    places = [100 * share for share in there]
    axes.errorbar(places, means, [low, high], fmt=style, marker=".", color=colour, label=label, capsize=2, lw=1.5)
