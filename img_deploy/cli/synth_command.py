"""``img-deploy synth``: a generated dataset in the real layout."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from img_deploy.cli.settings_options import with_options


def register(app: typer.Typer) -> None:
    from img_deploy.training.synthetic.config import SyntheticConfig

    names = ("videos", "seed", "test_share", "video_width", "audio_width")
    app.command("synth")(with_options(synth, SyntheticConfig, names))


def synth(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder; gets dataset/ and features/.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Features to write: i3d, clip+sf, iv2 (all on the same Charades-like videos) or activitynet; "
            "repeatable. Default: i3d.",
            show_default=False,
        ),
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="240 shorter videos with fewer actions: learnt in some 700 steps.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier generated dataset.")] = False,
    **options: Any,
) -> None:
    """Generate a dataset in which it is known what decides each query: sight, sound, or either.

    Annotations, features and GloVe-like vectors lie where those of the real datasets do; planted.json tells what
    was put in.
    """
    from img_deploy.cli.training_progress import CountBar
    from img_deploy.training.synthetic.config import SyntheticConfig
    from img_deploy.training.synthetic.writer import write_synthetic

    kinds = tuple(kind or ("i3d",))
    given = {name: value for name, value in options.items() if value is not None} | {"kinds": kinds}
    config = (SyntheticConfig.small if small else SyntheticConfig)(**given)
    with CountBar("generating", "videos") as bar:
        summary = write_synthetic(out, config, overwrite, bar)
    print(f"{summary.folder}: {summary.videos} videos, {summary.queries} queries, {summary.size / 1e6:.0f} MB")
    features = next((one for one in kinds if one != "activitynet"), None)
    what = ["--task", "charades" if features else "activitynet", "--features", features or "i3d", "--data", str(out)]
    for name in ("video_width", "audio_width"):
        if name in given:
            what += ["--set", f"{name}={given[name]}"]
    print(f"try: img-deploy train {shlex.join(what)} --out RUN", file=sys.stderr)
