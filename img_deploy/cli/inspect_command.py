"""``img-deploy inspect``: what is inside a checkpoint or a bundle."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from img_deploy.errors import one_line

if TYPE_CHECKING:
    from img_deploy.export.inspection import Inspection


class InspectFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


def register(app: typer.Typer) -> None:
    app.command("inspect")(inspect)


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A checkpoint (best.pt) or a bundle folder (deploy/).")],
    format: Annotated[InspectFormat, typer.Option(help="table for people, json for programs.")] = InspectFormat.TABLE,
) -> None:
    """Print what a checkpoint or a bundle holds; the files of a bundle are checked against their hashes.

    Exit code 0: whole; 2: neither of the two, damaged or tampered with.
    """
    from img_deploy.export.inspection import inspect_path

    found = inspect_path(path)
    if format is InspectFormat.JSON:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        _print(found)


def _print(found: "Inspection") -> None:
    from img_deploy.cli.tables import print_table
    from img_deploy.export import report

    print(one_line(f"{found.path}: {found.kind}"))
    for heading, section in found.sections.items():
        print()
        known = {name: value for name, value in section.items() if value is not None}
        print_table({heading: [*map(one_line, known)], "": [_cell(value) for value in known.values()]})
    if found.verification is not None:
        print()
        print_table(report.columns(found.verification), report.NUMBERS, report.title(found.verification))
    for heading, table in found.tables.items():
        print()
        numbers = [name for name, cells in table.items() if all(isinstance(cell, int | float) for cell in cells)]
        print_table({name: [_cell(cell) for cell in cells] for name, cells in table.items()}, numbers, heading)


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else one_line(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
