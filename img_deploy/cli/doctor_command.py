"""``img-deploy doctor``: what this machine has, and which backend will answer."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img_deploy.errors import BundleError

if TYPE_CHECKING:
    from img_deploy.runtime.bundle import Bundle
    from img_deploy.runtime.machine_report import MachineReport

DEFAULT_BUNDLE = Path("deploy")
UNREADABLE = "not readable here"


class DoctorFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Bundle to choose a backend for. Default: ./deploy if it is one, else bundles in general.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[DoctorFormat, typer.Option(help="table for people, json for programs.")] = DoctorFormat.TABLE,
) -> None:
    """Tell what this machine has, which backend `auto` takes, and why each of the others is not taken.

    Warnings name the command that repairs what is wrong. Exit code 0, also with warnings or without a GPU.
    """
    from img_deploy.runtime.machine_report import machine_report

    found, problem = _bundle(bundle)
    try:
        report = machine_report(found)
    except BundleError as error:
        if bundle is not None:
            raise
        report, problem = machine_report(), str(error)
    if format is DoctorFormat.JSON:
        print(json.dumps({**report.as_dict(), "bundle_problem": problem}, indent=1))
        return
    _print(report, problem)


def _bundle(asked: Path | None) -> tuple["Bundle | None", str | None]:
    """The bundle to speak of, and what is wrong with the default one; one that was asked for has to be right."""
    from img_deploy.runtime.bundle import Bundle

    if asked is None and not DEFAULT_BUNDLE.exists():
        return None, None
    try:
        return Bundle.open(asked or DEFAULT_BUNDLE), None
    except BundleError as error:
        if asked is not None:
            raise
        return None, str(error)


def _print(report: "MachineReport", problem: str | None) -> None:
    from img_deploy.cli.tables import print_table

    facts = _facts(report)
    print_table({"what": [name for name, _ in facts], "here": [value for _, value in facts]})
    print()
    about = "bundles in general" if report.bundle is None else report.bundle
    print_table(
        {
            "backend": [fact.label for fact in report.backends],
            "state": ["auto" if fact.chosen else "works" if fact.works else "out" for fact in report.backends],
            "why": [fact.reason for fact in report.backends],
        },
        title=f"backends, fastest first, for {about}",
    )
    sys.stdout.flush()
    for warning in (*report.warnings, *([problem] if problem else [])):
        print(f"warning: {warning}")


def _facts(report: "MachineReport") -> list[tuple[str, str]]:
    flags = (
        UNREADABLE
        if report.hardware.cpu_flags is None
        else " ".join(report.hardware.cpu_flags) or "none of those that matter"
    )
    facts = [
        ("Python", report.python),
        ("platform", report.hardware.platform),
        ("CPU", f"{report.hardware.cpu}, {report.hardware.cpus} usable cores"),
        ("CPU features", flags),
        ("memory", UNREADABLE if report.hardware.memory_gib is None else f"{report.hardware.memory_gib:.1f} GiB"),
    ]
    for gpu in report.hardware.gpus:
        memory = "" if gpu.memory_gib is None else f", {gpu.memory_gib:.0f} GiB"
        facts.append(("GPU", f"{gpu.name}{memory}, compute capability {gpu.compute_capability or 'unknown'}"))
    driver = next((gpu.driver for gpu in report.hardware.gpus if gpu.driver), None)
    facts += [("GPU driver", driver or UNREADABLE)] if report.hardware.gpus else [("GPU", "no NVIDIA GPU")]
    facts += [(name, version or "not installed") for name, version in report.packages.items()]
    return [*facts, ("ORT providers", ", ".join(report.providers) or "none")]
