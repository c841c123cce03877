"""Tables for people: framed on a terminal, plain aligned lines in a pipe."""

import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TextIO

LONG = 20
"""Columns of longer cells are folded where the terminal is narrow; shorter ones (numbers, names) never."""


def print_table(
    columns: Mapping[str, Sequence[str]],
    numbers: Collection[str] = (),
    title: str | None = None,
    stream: TextIO | None = None,
) -> None:
    """Print equally long columns of cells.

    Args:
        columns: heading -> cells.
        numbers: headings of the columns that are aligned to the right.
        title: a line above.
        stream: standard output by default.
    """
    stream = stream or sys.stdout
    if stream.isatty():
        _framed(columns, numbers, title, stream)
    else:
        _plain(columns, numbers, title, stream)


def _framed(columns: Mapping[str, Sequence[str]], numbers: Collection[str], title: str | None, stream: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heading = None if title is None else Text(title, style="bold")
    table = Table(title=heading, box=SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    needed = 0
    for name, cells in columns.items():
        width = max(map(cell_len, [name, *cells]))
        needed += min(width, LONG) + 2
        table.add_column(
            name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=width <= LONG, min_width=1
        )
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*map(Text, cells))
    # On a terminal too narrow even so, whole lines wrap rather than numbers.
    Console(file=stream, width=max(shutil.get_terminal_size().columns, needed)).print(table)


def _plain(columns: Mapping[str, Sequence[str]], numbers: Collection[str], title: str | None, stream: TextIO) -> None:
    if title is not None:
        print(title, file=stream)
    widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
    for cells in zip(*([name, *cells] for name, cells in columns.items()), strict=True):
        aligned = (
            cell.rjust(widths[name]) if name in numbers else cell.ljust(widths[name])
            for name, cell in zip(columns, cells, strict=True)
        )
        print("  ".join(aligned).rstrip(), file=stream)
