"""``img-deploy profile``: how fast the backends are on this machine."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img_deploy.errors import InputError
from img_deploy.hardware import MOST_THREADS

if TYPE_CHECKING:
    from img_deploy.benchmarks.profile import Profile, ProfileOptions

STDOUT = Path("-")
BATCH_SIZES, CLIPS = (1, 4, 16), (32, 64, 128)
QUICK_BATCH_SIZES, QUICK_CLIPS = (1, 4), (16, 32)
SECONDS, QUICK_SECONDS = 3.0, 0.2
STARTS, QUICK_STARTS = 3, 1
TEXTS = {"backend"}
"""Columns that are not numbers."""


def register(app: typer.Typer) -> None:
    app.command("profile")(profile)


def profile(
    bundle: Annotated[Path, typer.Option(help="Folder made by `img-deploy export`.")] = Path("deploy"),
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Backend to time (onnxruntime, torch, or one on a device: torch:cpu); repeatable. Eager PyTorch is "
            "always timed beside it. Default: all that work here."
        ),
    ] = None,
    batch_size: Annotated[
        list[str] | None, typer.Option(help="Pairs per batch: 1,8,16. Default: 1,4,16.", show_default=False)
    ] = None,
    clips: Annotated[
        list[str] | None,
        typer.Option(
            help="Lengths of the videos in clips: 32,64,128. Default: these, up to what the bundle takes.",
            show_default=False,
        ),
    ] = None,
    words: Annotated[int, typer.Option(min=1, help="Words per query.")] = 10,
    seconds: Annotated[
        float | None,
        typer.Option(help="Time to measure each case for, at least 5 rounds. Default: 3.", show_default=False),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Rounds to measure each case for, instead of --seconds.")
    ] = None,
    starts: Annotated[
        int | None,
        typer.Option(min=0, help="Fresh processes per backend, for cold starts. Default: 3.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads. Default: the backend's choice.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Take videos of this folder, cut to length. Default: drawn numbers.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to this file; - prints it instead of the tables.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG: latency against batch size and length.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few and short cases, for a first look.")] = False,
) -> None:
    """Time every backend from features and a sentence to the moment, beside eager PyTorch in the same rounds.

    Times are those of a whole batch. "speedup" is the median, over rounds, of eager PyTorch's time over the backend's.
    """
    from img_deploy.benchmarks.profile import Effort, Grid, ProfileOptions

    options = ProfileOptions(
        backends=tuple(backend or ()),
        grid=Grid(
            _numbers("--batch-size", batch_size) or (QUICK_BATCH_SIZES if quick else BATCH_SIZES),
            _numbers("--clips", clips) or (QUICK_CLIPS if quick else CLIPS),
            words,
            shorten=not clips,
        ),
        effort=Effort((QUICK_SECONDS if quick else SECONDS) if seconds is None else seconds, repeats),
        threads=threads,
        features=features,
        starts=(QUICK_STARTS if quick else STARTS) if starts is None else starts,
    )
    _profile(bundle, options, json_file, plot)


def _numbers(name: str, values: list[str] | None) -> tuple[int, ...]:
    """Whole numbers of an option given as ``1,8,16``, repeated, or both."""
    parts = [part.strip() for value in values or () for part in value.split(",")]
    if wrong := [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 10 and int(part))]:
        raise InputError(f"{name}: got {wrong[0]!r:.40}, expected whole numbers above 0, such as 1,8,16")
    return tuple(int(part) for part in parts)


def _profile(folder: Path, options: "ProfileOptions", json_file: Path | None, plot: Path | None) -> None:
    from img_deploy.benchmarks.page import json_text
    from img_deploy.benchmarks.profile import check_writable, run_profile
    from img_deploy.files import write_text
    from img_deploy.runtime.bundle import Bundle

    for path in (json_file, plot):
        if path is not None and path != STDOUT:
            check_writable(path)
    if plot is not None and plot.suffix.lower() != ".png":
        raise InputError(f"--plot: got {str(plot)!r}, expected a name that ends in .png")
    with _progress() as on_step:
        result = run_profile(Bundle.open(folder), options, on_step)
    if plot is not None:
        from img_deploy.benchmarks.plots import plot_latency

        plot_latency(result.cases, plot, result.headline())
    if json_file == STDOUT:
        print(json_text(result.as_dict()), end="")
        return
    if json_file is not None:
        write_text(json_file, json_text(result.as_dict()))
    _print(result)
    for path in (json_file, plot):
        if path is not None:
            print(f"wrote {path}")


def _print(result: "Profile") -> None:
    from img_deploy.benchmarks import profile_tables
    from img_deploy.cli.tables import print_table

    document = result.as_dict()
    print(f"{result.bundle} on {result.headline()}")
    print(f"inputs: {result.inputs}, {result.words} words per query")
    tables = {
        "from features and a sentence to the moment, ms per batch (n rounds)": profile_tables.latency_columns(document),
        "a further query on videos encoded before, ms per batch": profile_tables.asked_columns(document),
        "stages, median ms per batch": profile_tables.stage_columns(document),
        "from nothing to the first answer, median ms": profile_tables.start_columns(document),
    }
    for title, columns in tables.items():
        if columns["backend"]:
            print()
            print_table(columns, set(columns) - TEXTS, title=title)
    sys.stdout.flush()
    for note in result.notes():
        print(f"note: {note}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """Shows steps on standard error: a bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _name, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Drawn at each step alone: a thread that redraws would take time from what is measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task("opening the backends", total=None)
        begun = 0

        def on_step(name: str, total: int) -> None:
            nonlocal begun
            bar.update(task, description=name, total=total, completed=begun)
            bar.refresh()
            begun += 1

        yield on_step
