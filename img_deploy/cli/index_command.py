"""``img-deploy index``: encode a folder of features once, to be asked any number of times."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from img_deploy.cli.work_options import Engine, EngineOption, ThreadsOption, WorkersOption

if TYPE_CHECKING:
    from img_deploy.runtime.indexing import IndexSummary


class Store(StrEnum):
    FP32 = "fp32"
    FP16 = "fp16"


def register(app: typer.Typer) -> None:
    app.command("index")(index)


def index(
    features: Annotated[str, typer.Argument(metavar="FEATURES", help="A feature folder, as `infer` takes it.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="INDEX", help="The index: made, or brought up to date.")],
    bundle: Annotated[Path, typer.Option(help="Folder made by `img-deploy export`.")] = Path("deploy"),
    store: Annotated[
        Store | None,
        typer.Option(
            help="What values are rounded to: fp32 or fp16 (half the size). Default: fp32.", show_default=False
        ),
    ] = None,
    durations: Annotated[
        Path | None, typer.Option(help="Video lengths in seconds, kept in the index; the files that `infer` takes.")
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Drop videos whose features are gone from FEATURES.")] = False,
    backend: Annotated[
        str, typer.Option(help="auto (the fastest that works here), or one that `doctor` lists.")
    ] = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = Engine.LOCAL,
    workers: WorkersOption = None,
    batch_size: Annotated[int, typer.Option(min=1, max=1 << 20, help="Most videos per run.")] = 16,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first video that cannot be used (exit code 2).")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Tell on standard error what is skipped, no more.")] = False,
) -> None:
    """Encode every video of a folder once. `infer INDEX` then asks without reading or encoding a video again.

    A further run encodes new and changed videos alone. Every two seconds of work are kept as a whole version: a killed
    run loses no more, and the next one goes on from there.

    Exit code 0: the index holds at least one video; 2: wrong input, or no video could be used.
    """
    from img_deploy.cli.reporting import Reporter
    from img_deploy.durations import read_durations
    from img_deploy.errors import InputError
    from img_deploy.features.folders import open_folder
    from img_deploy.runtime.asking import unused
    from img_deploy.runtime.bundle import Bundle
    from img_deploy.runtime.indexing import index_folder
    from img_deploy.runtime.inputs import input_rules
    from img_deploy.runtime.workers import open_workers

    seconds = read_durations(durations) if durations is not None else {}
    opened = Bundle.open(bundle)
    rules = input_rules(opened)
    folder = open_folder(features, rules.video, rules.audio, max_clips=rules.max_clips)
    at_work = open_workers(opened, rules, backend, threads, engine.value, workers)
    with Reporter(quiet, strict, work=("encoding", "videos")) as reporter:
        for note in (str(at_work), *folder.notes):
            reporter.note(note)
        if durations is not None and (warning := unused(durations, seconds, folder.videos())) is not None:
            reporter.note(warning)
        kept: Literal["fp32", "fp16"] | None = None
        if store is not None:
            kept = "fp16" if store is Store.FP16 else "fp32"
        summary = index_folder(folder, at_work, out, kept, seconds, prune, batch_size, listener=reporter)
    _print(out, summary)
    if not summary.added + summary.changed + summary.kept:
        raise InputError(f"{features}: none of its videos could be used; {summary.skipped} were skipped")


def _print(path: str, summary: "IndexSummary") -> None:
    counts = {"added": summary.added, "changed": summary.changed, "unchanged": summary.kept, "skipped": summary.skipped}
    print(f"{path}: {', '.join(f'{count} {name}' for name, count in counts.items())}")
    if summary.vanished:
        some = ", ".join(summary.vanished[:3]) + (", ..." if len(summary.vanished) > 3 else "")
        done = "dropped" if summary.pruned else "kept; --prune drops them"
        print(f"{len(summary.vanished)} videos without features any more ({some}): {done}", file=sys.stderr)
