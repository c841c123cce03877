"""``img-deploy export``: a checkpoint becomes a verified bundle."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from img_deploy.export.engines import EngineReport
    from img_deploy.export.verify import Verification


class Switch(StrEnum):
    ON = "on"
    OFF = "off"


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    ckpt: Annotated[Path, typer.Option(help="Checkpoint: best.pt of a training, or made by `img-deploy import`.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Bundle folder to write; an older bundle there is replaced as a whole.")
    ] = Path("deploy"),
    precision: Annotated[
        str,
        typer.Option(help="Precisions of the graphs, separated by commas: fp32, fp16, bf16; the first is the default."),
    ] = "fp32",
    targets: Annotated[
        str,
        typer.Option(
            help="What to make, separated by commas: onnx; tensorrt (engines for this machine's GPU); tensorrt-rtx "
            "(engines for the GPUs that --gpu names, built on any machine); model-repository (the graphs for NVIDIA's "
            "inference server)."
        ),
    ] = "onnx",
    samples: Annotated[
        Path | None,
        typer.Option(help="Feature folder whose videos the artifacts are verified on. Default: drawn features."),
    ] = None,
    sample_queries: Annotated[
        Path | None,
        typer.Option(help="Annotation file with queries of those videos (any format). Default: random words."),
    ] = None,
    plugins: Annotated[
        Switch | None,
        typer.Option(
            help="on: each fused op stays one node, which TensorRT can replace by our kernel and every other runtime "
            "expands; off: standard ops alone. Default: on with the target tensorrt, else off.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="How TensorRT builds: max_batch=64, workspace_mib=4096, optimization_level=3, version_compatible=on, "
            "hardware=same_capability (or ampere_plus), timing_cache=FILE. Repeatable.",
            show_default=False,
        ),
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            metavar="smNN",
            help="What TensorRT for RTX builds for: sm75 (RTX 20), sm80 (A100), sm86 (RTX 30), sm89 (RTX 40), sm120 "
            "(RTX 50). Repeatable. Default: this machine's GPU.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawn features and queries.")] = 0,
) -> None:
    """Export a checkpoint: ONNX graphs, weights and vocabulary in one folder that `infer` needs nothing beside.

    Ends by running every artifact against the eager fp32 network.

    Exit code 1: one of them is too far off, and nothing was written, or no engines could be built,
    and the bundle runs without them; 2: wrong input.
    """
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint
    from img_deploy.export.engine_options import EngineOptions
    from img_deploy.model.checkpoint import Checkpoint

    made = _listed(targets)
    nodes = any(name.startswith("tensorrt") for name in made) if plugins is None else plugins is Switch.ON
    building = EngineOptions.from_settings(engine or [], plugins=nodes)
    options = ExportOptions(
        precisions=_listed(precision),
        targets=made,
        samples=samples,
        sample_queries=sample_queries,
        seed=seed,
        plugins=nodes,
        engine=building,
        gpus=tuple(gpu or ()),
    )
    bundle_from_checkpoint(Checkpoint.load(ckpt), out, options, _tell, _show, _show_engines)
    print(f"{out}: verified bundle, ready for `img-deploy infer FEATURES --bundle {out}`")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _tell(step: str) -> None:
    print(f"{step} ...", file=sys.stderr, flush=True)


def _show(verification: "Verification") -> None:
    from img_deploy.cli.tables import print_table
    from img_deploy.export.report import NUMBERS, columns, title

    print_table(columns(verification), NUMBERS, title(verification))


def _show_engines(reports: "Sequence[EngineReport]") -> None:
    from img_deploy.cli.tables import print_table
    from img_deploy.export.report import ENGINE_NUMBERS, engine_columns

    print_table(engine_columns(reports), ENGINE_NUMBERS, "engines")
