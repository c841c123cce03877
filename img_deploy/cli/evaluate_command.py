"""``img-deploy evaluate``: score a checkpoint or a bundle."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img_deploy.errors import InputError

if TYPE_CHECKING:
    from img_deploy.training.evaluation_run import EvaluationResult


class ScoreFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


def register(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate)


def evaluate(
    task: Annotated[str, typer.Option(help="charades, charadesAM (Charades-AudioMatter) or activitynet.")],
    data: Annotated[Path, typer.Option(help="Folder with dataset/ and features/.")],
    ckpt: Annotated[Path | None, typer.Option(help="A checkpoint (best.pt).", show_default=False)] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A folder made by `img-deploy export`.", show_default=False)
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="i3d, clip+sf or iv2. Default: what the checkpoint was trained on.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="test, or val_2 of activitynet.")] = "test",
    predictions: Annotated[
        Path | None,
        typer.Option(help="Write the answers here, as the JSON lines that moment_detr's evaluators read."),
    ] = None,
    ground_truth: Annotated[
        Path | None, typer.Option(help="Write the annotations of the same queries here, for the same evaluators.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Write pictures (PNG) into this folder.")] = None,
    format: Annotated[ScoreFormat, typer.Option(help="table for people, json for programs.")] = ScoreFormat.TABLE,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries at a time; the scores do not depend on it.")] = 64,
    backend: Annotated[str, typer.Option(help="What runs a bundle; auto takes the fastest that works here.")] = "auto",
    device: Annotated[str, typer.Option(help="What runs a checkpoint: cpu or cuda.")] = "cpu",
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap over videos (95% intervals).")] = 1000,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps down-sampled features. Default: .img-deploy in DATA.", show_default=False),
    ] = None,
) -> None:
    """R1@0.3, 0.5, 0.7 and mIoU of the fused, visual and audio heads, with and without sound, by moment length.

    A video without sound is answered by the visual head. A bundle has no audio head; the others score the same as
    its checkpoint.
    """
    from img_deploy.cli.training_progress import CountBar
    from img_deploy.training.evaluation_run import EvaluationRequest, run_evaluation

    if predictions is not None and predictions == ground_truth:
        raise InputError(f"--ground-truth: got the file of --predictions ({predictions}); give another")
    request = EvaluationRequest(
        task, data, ckpt, bundle, features, split, cache, batch_size, backend, device, resamples
    )
    with CountBar("reading features", "videos") as bar:
        result = run_evaluation(request, bar)
    for note in result.notes:
        print(note, file=sys.stderr)
    try:
        _write(result, predictions, ground_truth, plots, split)
    finally:  # scores may have taken long
        _print(result, format)


def _write(
    result: "EvaluationResult", predictions: Path | None, ground_truth: Path | None, plots: Path | None, split: str
) -> None:
    from img_deploy.training.plots import write_plots
    from img_deploy.training.submissions import write_ground_truth, write_predictions

    if predictions is not None:
        count = write_predictions(predictions, result.task, result.answers)
        print(f"{predictions}: {count} predictions", file=sys.stderr)
    if ground_truth is not None:
        count = write_ground_truth(ground_truth, result.task, result.answers)
        print(f"{ground_truth}: {count} annotated queries", file=sys.stderr)
    if plots is not None:
        title = f"{result.task.name}, {result.task.features}, {split} split"
        try:
            written = write_plots(result.evaluation, plots, title)
        except OSError as error:
            raise InputError(f"{plots}: cannot be written ({error.strerror}); give another folder") from None
        for path in written:
            print(path, file=sys.stderr)


def _print(result: "EvaluationResult", format: ScoreFormat) -> None:
    from img_deploy.cli.evaluation_table import print_bins, print_scores

    if format is ScoreFormat.JSON:
        facts = {"source": result.source, "protocol": result.protocol, "notes": list(result.notes)}
        print(json.dumps({**facts, **result.evaluation.as_dict()}))
        return
    print_scores(result.evaluation, f"{result.source} ({result.protocol or 'origin unknown'})")
    print()
    print_bins(result.evaluation)
