"""What every benchmark writes: its figures as JSON, and a page of them in Markdown that is made of that JSON alone."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from img_deploy.errors import InputError
from img_deploy.files import write_text

Document = dict[str, Any]
"""Plain values, ready for JSON."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table, with an empty line after it.

    >>> table(("a", "b"), [(1, 2)])
    ['| a | b |', '| --- | --- |', '| 1 | 2 |', '']
    """
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, ["---"] * len(head), *rows)] + [""]


def table_of(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines of a table that is given by its columns."""
    return table(list(columns), zip(*columns.values(), strict=True))


def head(title: str, command: str, file: str) -> list[str]:
    """How a page begins: its title, what made it, and the file that holds every figure."""
    return [f"# {title}", "", f"Made by `{command}`; every figure is in `{file}`.", ""]


def origin(where: Mapping[str, Any], busy: str = "", network: str = "") -> list[str]:
    """Machine, versions and commit as a list, from an :func:`~img_deploy.benchmarks.environment.environment`.

    Args:
        busy: said of the machine: how busy other programs kept it.
        network: what was measured, as a last item.
    """
    machine, threads = where["machine"], where.get("threads")
    parts = [f"{machine['cpu']}, {machine['cpus']} cores ({' '.join(machine['cpu_flags'] or ['no flags'])})"]
    parts += [f"{machine['memory_gib']} GiB", machine["platform"]]
    lines = [f"- Machine: {', '.join(parts)}{'; ' if busy else ''}{busy}."]
    lines += [
        f"- GPU: {card['name']}, driver {card['driver']}, compute capability {card['compute_capability']}."
        for card in machine["gpus"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines += [f"- Versions: {versions}."]
    lines += [f"- Commit {where['commit']}, {where['time']}; threads: {threads or 'the choice of each backend'}."]
    return lines + ([f"- {network}."] if network else [])


def ms(value: float) -> str:
    """Milliseconds as tables show them: three significant digits, more from 1000 on."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def spread(ratio: Mapping[str, float] | None) -> str:
    """A ratio with its quartiles in brackets."""
    return "-" if ratio is None else f"{ratio['p50']:.2f} ({ratio['p25']:.2f}-{ratio['p75']:.2f})"


def json_text(document: Document) -> str:
    return json.dumps(document, indent=1) + "\n"


def write_results(out: Path, name: str, document: Document, page: Callable[[Document], str]) -> tuple[Path, Path]:
    """Write ``<name>.json`` and the page made of it, ``<name>.md``; gives both paths. Raises InputError."""
    figures, text = out / f"{name}.json", out / f"{name}.md"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(figures, json_text(document))
        write_text(text, page(document))
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another --out") from None
    return figures, text
