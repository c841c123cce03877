"""How the work on a library grows: ``python -m img_deploy.benchmarks.library --out benchmarks/results``.

Makes feature folders, and indexes, renews and asks them with the commands that users run, in one process and through
Ray. Sizes and engines may be measured in several runs: each takes over what the results hold of the others.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.page import Document, head, origin, table, write_results
from img_deploy.errors import ImgDeployError, InputError
from img_deploy.files import replacing_file, sha256
from img_deploy.hardware import OtherPrograms

COMMAND = "python -m img_deploy.benchmarks.library"
NAME = "library"
SIZES = (100, 1_000, 10_000)
BEYOND = 100_000
"""Videos of the row that is extrapolated from the two largest sizes."""
CLIPS, DISTINCT = 64, 64
"""Clips of each video, and videos with files of their own; the others are hard links to these."""
WIDTHS = {"video": 1024, "audio": 2048}
"""Of I3D and PANNs features."""
STEPS = ("index", "add 1%", "ask once", "ask ten times")
ENGINES = ("local", "ray")
SENTENCES = 10


def add_videos(folder: Path, first: int, last: int) -> None:
    """Feature files (I3D and PANNs, float32) of the videos with these numbers."""
    for stream, width in WIDTHS.items():
        place, originals = folder / stream, folder / f".{stream}{first}"  # of its own: a link changes its file's times
        place.mkdir(parents=True, exist_ok=True)
        originals.mkdir()
        random = np.random.default_rng(width)
        for number in range(DISTINCT):
            np.save(originals / f"{number}.npy", random.standard_normal((CLIPS, width), np.float32))
        for number in range(first, last):
            os.link(originals / f"{number % DISTINCT}.npy", place / f"v{number:06d}.npy")


def measure(work: Path, bundle: Path, size: int, engine: Sequence[str], limit: float) -> dict[str, Any]:
    """Seconds and peak memory of each step, bytes per video of the index, and what tells its rows from others.

    Args:
        engine: options of the commands.
        limit: a step that would take longer, by the time of the one before, is computed from that and marked.
    """
    features, index, rows = work / "features", work / "index", work / "rows.jsonl"
    add_videos(features, 0, size)
    made = ("index", str(features), "--bundle", str(bundle), "--out", str(index), "--quiet", *engine)
    asked = ("infer", str(index), "--bundle", str(bundle), "--out", str(rows), "--quiet", *engine)
    found: dict[str, Any] = {"index": watched(made)}
    found["bytes per video"] = sum(path.stat().st_size for path in index.rglob("*") if path.is_file()) // size
    add_videos(features, size, size + size // 100)
    found["add 1%"] = watched(made)
    found["ask once"] = watched([*asked, "--query", _sentence(bundle, 0)])
    found["rows"], found["digest"] = len(rows.read_text().splitlines()), sha256(rows)
    if found["rows"] != size + size // 100:
        raise InputError(f"{rows}: got {found['rows']} rows, expected {size + size // 100}")
    if (ten := SENTENCES * found["ask once"]["seconds"]) > limit:
        found["ask ten times"] = {**found["ask once"], "seconds": ten, "extrapolated": True}
    else:
        queries = [part for number in range(SENTENCES) for part in ("--query", _sentence(bundle, number))]
        found["ask ten times"] = watched([*asked, *queries])
    return found


def _sentence(bundle: Path, number: int) -> str:
    from img_deploy.runtime.bundle import Bundle

    vocabulary = Bundle.open(bundle).vocabulary()
    if vocabulary is None:
        raise InputError(f"{bundle}: takes token features, expected a bundle that takes sentences")
    return " ".join(vocabulary.words[10 * number : 10 * number + 10])


def watched(arguments: Sequence[str]) -> dict[str, Any]:
    """Run a command: its seconds, start included, and the peak memory (MB) of it and of any one Ray worker."""
    import psutil

    command = [sys.executable, "-c", "from img_deploy.cli.main import main; main()", *arguments]
    begin, own, workers = time.perf_counter(), 0, 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            own = max(own, process.memory_info().rss)
            if "ray" in arguments:
                held = [one.memory_info().rss for one in psutil.process_iter(["name"]) if "_Worker" in one.name()]
                workers = max([workers, *held])
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.1)
    if process.returncode:
        raise InputError(f"{' '.join(arguments)}: ended with exit code {process.returncode}")
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "megabytes": own / 1e6, "worker megabytes": workers / 1e6 or None}


@contextmanager
def cluster(workers: int) -> Iterator[None]:
    """A Ray cluster of this machine that commands find, so that its start is in none of their times."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the process that they are compared with
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    try:
        yield
    finally:
        del os.environ["RAY_ADDRESS"]
        ray.shutdown()


def run(bundle: Path, engines: Sequence[str], sizes: Sequence[int], workers: int, limit: float) -> Iterator[Document]:
    """What was measured of each engine and size, one after the other."""
    for engine in engines:
        options = ("--engine", "ray", "--workers", str(workers)) if engine == "ray" else ()
        with cluster(workers) if engine == "ray" else TemporaryDirectory():
            for size in sizes:
                with TemporaryDirectory(prefix="img-deploy-library-") as work:
                    where = environment(1 if engine == "ray" else None)
                    others = OtherPrograms()
                    found = measure(Path(work), bundle, size, options, limit)
                    # Ray's workers are nobody's children: they would count as other programs.
                    busy = others.cores() if engine == "local" else None
                    yield {"engine": engine, "workers": workers, "size": size, "where": where, "busy": busy, **found}


def extrapolated(cells: Sequence[Mapping[str, Any]], step: str) -> float | None:
    """Seconds of a step at :data:`BEYOND` videos, along the line through the two largest sizes."""
    if len(cells) < 2:
        return None
    (few, less), (many, more) = [(cell["size"], cell[step]["seconds"]) for cell in cells[-2:]]
    return more + (BEYOND - many) * (more - less) / (many - few)


METHOD = (
    f"Videos of {CLIPS} clips (I3D and PANNs, float32 .npy files in the system's memory; {DISTINCT} are different, the "
    "others hard links), a network of the published size, fp32, sentences of 10 words. Seconds are those of whole "
    "commands, start included (of a Ray cluster that runs already); `ask ten times` is one command with ten sentences. "
    "Memory is the most that the command's process held and, with Ray, the most that a worker held. "
    f"`~` marks what was not run: {BEYOND:,} videos lie on the line through the two largest sizes, and ten questions "
    "that would have passed the limit take ten times one."
)
HEAD = (
    *("videos", *(f"{step} s" for step in STEPS), "asked pairs/s", "memory MB", "worker MB", "bytes per video"),
    "cores that other programs kept busy",
)


def page(result: Document) -> str:
    """``library.md`` of what ``library.json`` holds."""
    cells = result["cells"]
    lines = (
        head("A library of videos", result["command"], f"{NAME}.json") + origin(cells[-1]["where"]) + ["", METHOD, ""]
    )
    for engine in ENGINES:
        own = [cell for cell in cells if cell["engine"] == engine]
        if not own:
            continue
        title = "One process" if engine == "local" else f"Ray, {own[0]['workers']} workers of one thread"
        rows = [_row(cell) for cell in own]
        guesses = [extrapolated(own, step) for step in STEPS]
        rows += [(f"~ {BEYOND:,}", *(f"~ {guess:,.0f}" for guess in guesses), "", "", "", "", "")] if guesses[0] else []
        lines += [f"## {title}", "", *table(HEAD, rows)]
    digests: dict[int, list[str]] = {}
    for cell in cells:
        digests.setdefault(cell["size"], []).append(cell["digest"])
    both = {size: len(set(found)) == 1 for size, found in sorted(digests.items()) if len(found) == len(ENGINES)}
    if both:
        told = ", ".join(f"{size:,} videos: {'the same' if same else 'NOT the same'}" for size, same in both.items())
        lines += [f"The files of rows of both engines, byte by byte: {told}.", ""]
    return "\n".join([*lines, f"![seconds against videos]({NAME}.png)", ""])


def _row(cell: Mapping[str, Any]) -> tuple[object, ...]:
    steps = [cell[step] for step in STEPS]
    memory = max(step["megabytes"] for step in steps)
    workers = [step["worker megabytes"] for step in steps if step["worker megabytes"]]
    return (
        f"{cell['size']:,}",
        *(f"{'~ ' if step.get('extrapolated') else ''}{step['seconds']:,.1f}" for step in steps),
        f"{cell['rows'] / cell['ask once']['seconds']:,.0f}",
        f"{memory:,.0f}",
        f"{max(workers):,.0f}" if workers else "",
        f"{cell['bytes per video']:,}",
        "" if cell["busy"] is None else f"{cell['busy']:.1f}",
    )


def plot(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG: seconds of each step against videos; dotted to what is extrapolated. Raises OSError."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from img_deploy.benchmarks.plots import COLOURS, MARKERS

    figure = Figure(figsize=(10, 4.6), dpi=150, layout="constrained")
    for axes, engine in zip(figure.subplots(1, 2, sharey=True), ENGINES, strict=True):
        own = [cell for cell in cells if cell["engine"] == engine]
        for number, step in enumerate(STEPS):
            x, y = [cell["size"] for cell in own], [cell[step]["seconds"] for cell in own]
            axes.plot(x, y, color=COLOURS[number], marker=MARKERS[number], label=step)
            if (guess := extrapolated(own, step)) is not None:
                axes.plot([x[-1], BEYOND], [y[-1], guess], ":", color=COLOURS[number], marker=MARKERS[number], mfc="w")
        axes.set(title="one process" if engine == "local" else "Ray", xlabel="videos", xscale="log", yscale="log")
        axes.grid(alpha=0.25)
    figure.axes[0].set(ylabel="seconds of the command")
    figure.axes[0].legend(fontsize=9)
    with replacing_file(path) as stream:
        FigureCanvasAgg(figure).print_png(stream)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write ``library.json``, ``library.md`` and ``library.png``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    parser.add_argument("--bundle", type=Path, default=None, help="default: a network of full size, exported anew")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="videos")
    parser.add_argument("--engines", choices=ENGINES, nargs="+", default=list(ENGINES))
    parser.add_argument("--workers", type=int, default=2, help="Ray workers (default 2)")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds that ten questions may take (default 600)")
    given = parser.parse_args(arguments)
    try:
        figures = given.out / f"{NAME}.json"
        cells = json.loads(figures.read_text())["cells"] if figures.exists() else []
        with TemporaryDirectory(prefix="img-deploy-library-bundle-") as place:
            bundle = given.bundle or _exported(Path(place) / "deploy")
            for cell in run(bundle, given.engines, given.sizes, given.workers, given.limit):
                kept = [one for one in cells if (one["engine"], one["size"]) != (cell["engine"], cell["size"])]
                cells = sorted([*kept, cell], key=lambda one: (one["engine"], one["size"]))
                write_results(given.out, NAME, {"command": COMMAND, "cells": cells}, page)
                plot(cells, given.out / f"{NAME}.png")
                print(f"{cell['engine']}, {cell['size']} videos: measured", file=sys.stderr, flush=True)
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _exported(bundle: Path) -> Path:
    from img_deploy.benchmarks.cpu import full_size_checkpoint
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint

    bundle_from_checkpoint(full_size_checkpoint(), bundle, ExportOptions())
    return bundle


if __name__ == "__main__":
    sys.exit(main())
