"""``img-deploy synth``: a generated dataset in the real layout."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command("synth")(synth)


def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder; gets dataset/ and features/.")],
    videos: Annotated[
        int | None,
        typer.Option(help="Videos of each task, training and test together. Default: 480; 240 with --small."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes.")] = 0,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Features to write: i3d, clip+sf, iv2 (all on the same Charades-like videos) or activitynet; "
            "repeatable. Default: i3d.",
            show_default=False,
        ),
    ] = None,
    test_share: Annotated[float, typer.Option(help="Share of the videos that is the test set, 0 to 1.")] = 1 / 6,
    small: Annotated[
        bool, typer.Option("--small", help="Fewer actions and shorter videos: learnt in some 700 steps.")
    ] = False,
    video_width: Annotated[
        int | None, typer.Option(help="Width of the visual features, i3d alone. Default: the kind's own.")
    ] = None,
    audio_width: Annotated[int | None, typer.Option(help="Likewise of the audio features.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier generated dataset.")] = False,
) -> None:
    """Generate a dataset in which it is known what decides each query: sight, sound, or either.

    Annotations, features and GloVe-like vectors lie where those of the real datasets do; planted.json tells what
    was put in.
    """
    from img_deploy.cli.training_progress import CountBar
    from img_deploy.training.synthetic import SyntheticConfig, write_synthetic

    kinds = tuple(kind or ("i3d",))
    changes: dict[str, Any] = {"kinds": kinds, "seed": seed, "test_share": test_share}
    given = {"videos": videos, "video_width": video_width, "audio_width": audio_width}
    changes |= {name: value for name, value in given.items() if value is not None}
    config = SyntheticConfig.small(**changes) if small else SyntheticConfig(**changes)
    with CountBar("generating", "videos") as bar:
        summary = write_synthetic(out, config, overwrite, bar)
    print(f"{summary.folder}: {summary.videos} videos, {summary.queries} queries, {summary.size / 1e6:.0f} MB")
    task = "activitynet" if kinds == ("activitynet",) else "charades"
    features = "i3d" if task == "activitynet" else kinds[0]
    print(f"try: img-deploy train --task {task} --features {features} --data {out} --out RUN", file=sys.stderr)
