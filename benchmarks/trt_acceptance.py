"""One command for a machine with TensorRT: build engines, verify them, time them beside the other backends.

    python -m img_deploy.benchmarks.trt_acceptance
    python -m img_deploy.benchmarks.trt_acceptance --edition tensorrt-rtx

Without ``--bundle`` a network of full size with random weights is exported first. Writes ``trt_acceptance.json`` and
``trt_acceptance.md``. On a machine without TensorRT it says so in one line and ends with exit code 1.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from img_deploy.benchmarks.environment import headline
from img_deploy.benchmarks.latency import Grid
from img_deploy.benchmarks.page import Document, head, table, table_of, write_results
from img_deploy.benchmarks.profile import ProfileOptions, run_profile
from img_deploy.benchmarks.profile_tables import latency_columns
from img_deploy.benchmarks.timing import Effort
from img_deploy.errors import BackendError, ImgDeployError, InputError
from img_deploy.export.engine_options import EngineOptions
from img_deploy.runtime.backends.choose import survey
from img_deploy.runtime.backends.tensorrt.edition import EDITIONS, FULL, Edition
from img_deploy.runtime.bundle import Bundle, Manifest, write_manifest

COMMAND = "python -m img_deploy.benchmarks.trt_acceptance"
SLOW_TO_START = ("onnxruntime-tensorrt",)
"""Backends that build for minutes before the first answer; timed only when asked for."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Acceptance:
    """What one precision came to; ``failure`` is why there is no more."""

    precision: str
    engines: tuple[dict[str, Any], ...] = ()
    verification: tuple[dict[str, Any], ...] = ()
    profile: Document | None = None
    failure: str | None = None


def why_not_here(edition: Edition = FULL) -> str | None:
    """Why this machine cannot run the acceptance; None where it can."""
    from img_deploy.runtime.backends.tensorrt import backend

    return backend.unavailable("cuda", None, edition)


def accept(
    folder: Path,
    precisions: Sequence[str],
    engines: EngineOptions,
    profile: ProfileOptions,
    tell: Tell,
    edition: Edition = FULL,
) -> list[Acceptance]:
    """Build, verify and time each precision of a bundle. A precision that fails does not stop the next.

    Args:
        folder: a bundle of its own: engines are added to it.
        precisions: of its ONNX graphs.
        engines: how to build.
        profile: what to time; without backends, every one on a GPU that works.
        tell: is told each step.
        edition: of TensorRT.
    """
    return [_accept_one(folder, precision, engines, profile, tell, edition) for precision in precisions]


def _accept_one(
    folder: Path, precision: str, engines: EngineOptions, profile: ProfileOptions, tell: Tell, edition: Edition
) -> Acceptance:
    from img_deploy.export.engines import add_engines

    try:
        reports = add_engines(folder, precision, engines, lambda step: tell(f"{precision}: {step}"), edition=edition)
        built = tuple(
            {
                "graph": report.record.graph,
                "key": report.record.key,
                "edition": edition.title,
                "tensorrt": report.record.tensorrt,
                "gpu": report.record.where,
                "seconds": report.record.seconds,
                "mib": round(report.bytes / 2**20, 2),
                "layers": len(report.record.layers),
                "warnings": report.warnings,
                "plugins": dict(report.record.plugins),
            }
            for report in reports
        )
        manifest = _run_by_default(folder, precision)
        rows = [row for row in manifest.verification["rows"] if row["precision"] == precision]
    except ImgDeployError as error:
        tell(f"{precision}: {error}")
        return Acceptance(precision, failure=str(error))
    try:
        names = profile.backends or _on_a_gpu(Bundle.open(folder))
        timed = run_profile(
            Bundle.open(folder), replace(profile, backends=names), lambda step, _: tell(f"{precision}: timing {step}")
        )
    except ImgDeployError as error:
        tell(f"{precision}: {error}")
        return Acceptance(precision, built, tuple(rows), failure=str(error))
    return Acceptance(precision, built, tuple(rows), timed.as_dict())


def _run_by_default(folder: Path, precision: str) -> Manifest:
    """Make a precision what the bundle runs, so that every backend is timed in it."""
    manifest = Bundle.open(folder).manifest
    if manifest.precision != precision:
        write_manifest(folder, manifest := replace(manifest, precision=precision))
    return manifest


def _on_a_gpu(bundle: Bundle) -> tuple[str, ...]:
    return tuple(
        entry.label
        for entry, why in survey(bundle)
        if why is None and entry.device == "cuda" and entry.name not in SLOW_TO_START
    )


def page(document: Document) -> str:
    """``trt_acceptance.md`` of what ``trt_acceptance.json`` holds."""
    lines = head("TensorRT acceptance", document["command"], "trt_acceptance.json")
    for result in document["results"]:
        lines += [f"## {result['precision']}", "", *_outcome(result)]
    return "\n".join(lines)


def _outcome(result: Document) -> Iterator[str]:
    if result["failure"] is not None:
        yield from (f"**Failed:** {result['failure']}", "")
    if engines := result["engines"]:
        yield from (f"Engines for {engines[0]['gpu']} by {engines[0]['edition']} {engines[0]['tensorrt']}.", "")
        rows = [(one["graph"], one["seconds"], one["mib"], one["layers"], len(one["plugins"])) for one in engines]
        yield from table(("graph", "built in s", "MiB", "layers", "plugins"), rows)
        said = dict.fromkeys(warning for one in engines for warning in one["warnings"])
        yield from (*(f"Warning: {warning}" for warning in said), "")
    if checks := result["verification"]:
        cells = [
            (
                *(row["backend"], row["graph"], f"{row['largest']:.1e}", f"{row['mean']:.1e}"),
                "-" if row["agreement"] is None else f"{row['agreement']:.1%}",
                "passed" if row["passed"] else "FAILED",
            )
            for row in checks
        ]
        yield from ("Against the eager fp32 network:", "")
        yield from table(("backend", "graph", "largest difference", "mean", "same span", "verdict"), cells)
    if (profile := result["profile"]) is not None:
        yield from (headline(profile), "", "Milliseconds per batch, from features to moments:", "")
        yield from table_of(latency_columns(profile))
        yield from (*(f"Note: {note}." for note in profile["notes"]), "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the acceptance. Exit code 0: every precision passed; 1: one failed, or no TensorRT here; 2: wrong input."""
    given = _parser().parse_args(arguments)
    edition = EDITIONS[given.edition]
    if why := why_not_here(edition):
        print(f"{edition.title} acceptance cannot run on this machine: {why}", file=sys.stderr)
        return BackendError.exit_code
    try:
        command = " ".join([COMMAND, *(sys.argv[1:] if arguments is None else arguments)])
        plugins = given.plugins == "on" and not edition.builds_anywhere
        engines = EngineOptions.of(max_batch=given.max_batch, optimization_level=given.level, plugins=plugins)
        profile = ProfileOptions(
            backends=tuple(given.backends),
            grid=Grid(tuple(given.batch_size), tuple(given.clips), shorten=True),
            effort=Effort(given.seconds),
            starts=given.starts,
        )
        with TemporaryDirectory(prefix="img-deploy-trt-") as work:
            folder = _bundle(given.bundle, given.precision, Path(work) / "deploy")
            results = accept(folder, given.precision, engines, profile, _tell, edition)
        document = {"command": command, "results": [asdict(result) for result in results]}
        for path in write_results(given.out, "trt_acceptance", document, page):
            _tell(f"wrote {path}")
    except ImgDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if all(result.failure is None for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bundle", type=Path, help="bundle to copy (default: export a network of full size)")
    parser.add_argument("--edition", choices=tuple(EDITIONS), default=FULL.name, help=f"default {FULL.name}")
    parser.add_argument("--precision", nargs="+", default=["fp32", "fp16"], help="default fp32 fp16")
    parser.add_argument(
        "--plugins", choices=("on", "off"), default="on", help="run the fused ops as our kernels (tensorrt)"
    )
    parser.add_argument("--max-batch", type=int, default=64, help="largest batch of the engines (default 64)")
    parser.add_argument("--level", type=int, default=3, help="TensorRT's optimisation level, 0 to 5 (default 3)")
    parser.add_argument("--backends", nargs="+", default=[], help="backends to time (default: all on a GPU)")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 16, 64], help="default 1 16 64")
    parser.add_argument("--clips", type=int, nargs="+", default=[32, 128], help="default 32 128")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per case (default 5)")
    parser.add_argument("--starts", type=int, default=3, help="fresh processes per backend, 0 for none (default 3)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    return parser


def _bundle(given: Path | None, precisions: Sequence[str], target: Path) -> Path:
    """A bundle of its own for the acceptance. Raises BundleError, InputError."""
    if given is not None:
        have = Bundle.open(given).manifest.graphs
        if missing := [precision for precision in precisions if precision not in have]:
            raise InputError(f"{given}: holds no {', '.join(missing)} graphs, only {', '.join(have)}; give --precision")
        shutil.copytree(given, target)
        return target
    from img_deploy.benchmarks.cpu import full_size_checkpoint
    from img_deploy.export.bundle_from_checkpoint import ExportOptions, bundle_from_checkpoint

    options = ExportOptions(precisions=tuple(precisions), plugins=True)
    bundle_from_checkpoint(full_size_checkpoint(), target, options, tell=_tell)
    return target


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
