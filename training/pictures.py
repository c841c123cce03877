"""One picture per answered query: the truth, the moment found, what each head found salient, and the importance."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from img_deploy.runtime.results import Answer
from img_deploy.training.plots import COLOURS, GREY, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUTH = "#c44e52"


def draw_answer(answer: Answer, truth: Sequence[Sequence[float]], path: Path) -> Path:
    """Write one PNG.

    Args:
        answer: with a duration.
        truth: annotated windows, [start, end] in seconds each.
        path: file to write, atomically.
    Raises:
        ValueError: the answer has no duration. OSError: ``path`` cannot be written.
    """
    if answer.duration is None or answer.best.window is None:
        raise ValueError("got an answer without seconds, expected one of a video of known duration")
    streams = {"fused": answer.saliency, "visual": answer.saliency_visual, "audio": answer.saliency_audio}
    if answer.head == "visual":
        streams = {"visual": answer.saliency}
    figure = new_figure(7.6, 3.4)
    times, curves = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.2))
    _timeline(times, answer, truth)
    _saliency(curves, answer, {name: values for name, values in streams.items() if values is not None}, truth)
    figure.suptitle(f"“{answer.query}”", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_figure(figure, path)


def _timeline(axes: "Axes", answer: Answer, truth: Sequence[Sequence[float]]) -> None:
    assert answer.best.window is not None
    assert answer.duration is not None
    for start, end in truth:
        axes.barh(1, end - start, 0.62, left=start, color=TRUTH)
    start, end = answer.best.window
    axes.barh(0, end - start, 0.62, left=start, color=COLOURS[answer.head])
    axes.set_yticks([1, 0], ["truth", "found"], fontsize=9)
    axes.set(xlim=(0, answer.duration), ylim=(-0.6, 1.6))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    spans = ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in truth)
    found = f"found {start:.1f} to {end:.1f} s (score {answer.best.score:.2f})"
    sound = "no sound: the visual head answers" if answer.importance is None else ""
    sound = sound or f"audio importance {answer.importance:.2f}"
    axes.set_title(f"{answer.vid}: truth {spans}; {found}; {sound}", fontsize=8.5, color="0.25", loc="left")


def _saliency(
    axes: "Axes", answer: Answer, streams: dict[str, npt.NDArray[np.float32]], truth: Sequence[Sequence[float]]
) -> None:
    assert answer.duration is not None
    edges = np.linspace(0, answer.duration, answer.clips + 1)
    for start, end in truth:
        axes.axvspan(start, end, color=TRUTH, alpha=0.1, lw=0)
    for name, values in streams.items():
        axes.stairs(_scaled(values), edges, color=COLOURS.get(name, GREY), lw=1.6, label=name, baseline=None)
    axes.set(ylim=(-0.03, 1.05), xlabel="seconds", ylabel="saliency, scaled")
    axes.set_yticks([0, 1], ["lowest", "highest"], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right", bbox_to_anchor=(1, 1.16))


def _scaled(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """To 0..1: each head has a scale of its own, and only its shape says anything."""
    wide = np.asarray(values, np.float64)
    return (wide - wide.min()) / max(float(np.ptp(wide)), 1e-9)
