"""``img-deploy import``: a run of the paper's code becomes one checkpoint."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("import")(import_)


def import_(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN_DIR", help="Folder with IMG_<step>.t7 and configs.json, or one state-dict file."),
    ],
    dataset: Annotated[
        Path | None,
        typer.Option(help="The run's pickled dataset, which holds its vocabulary; not needed for token features."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint file to write.")] = Path("best.pt"),
    noise_seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the slot noise, which becomes part of the model.")
    ] = 0,
    video_features: Annotated[
        str | None, typer.Option(help="Kind of the visual features: i3d, clip+sf, iv2 or plain. Default: by width.")
    ] = None,
    audio_features: Annotated[
        str | None, typer.Option(help="Kind of the audio features: panns, vggish or plain. Default: by width.")
    ] = None,
    text_features: Annotated[
        str | None, typer.Option(help="Kind of the token features: clip, llama or plain. Default: by width.")
    ] = None,
) -> None:
    """Read a run of the paper's code, check every tensor of it, and write one self-contained checkpoint.

    The highest step is taken where there are several. Nothing that the files hold is executed.

    Exit code 2: a tensor is missing, unknown or misshapen, or the vocabulary is another run's.
    """
    from img_deploy.model.reference_run import ImportOptions, import_run

    options = ImportOptions(noise_seed, video_features, audio_features, text_features)
    imported = import_run(run, dataset, options)
    imported.checkpoint.save(out)
    for remark in imported.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print(f"{out}: {imported.checkpoint.config.variant} network from {imported.checkpoint.provenance['imported_from']}")
