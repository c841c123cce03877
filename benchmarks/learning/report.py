"""The measured parts of docs/learning.md: tables and pictures, from the results that are there.

The page's text is written by hand; its tables stand between ``<!-- NAME -->`` and ``<!-- end -->`` and are replaced.
"""

import json
import re
from pathlib import Path
from typing import Any

from img_deploy.benchmarks.environment import environment
from img_deploy.benchmarks.learning import tables
from img_deploy.benchmarks.learning.pictures import draw_heads, draw_history, draw_noise
from img_deploy.benchmarks.learning.plan import Places
from img_deploy.benchmarks.learning.results import Result, Results
from img_deploy.benchmarks.page import json_text
from img_deploy.errors import InputError
from img_deploy.files import write_text

PAGE, FIGURES, PICTURES = "learning.md", "learning.json", "images"


def write_report(places: Places, docs: Path, commit: str | None = None) -> list[Path]:
    """Bring ``docs/learning.md`` up to the results of a study, finished or not.

    Args:
        places: of the study.
        docs: folder with ``learning.md``; gets ``learning.json`` and ``images/learning-*.png``.
        commit: that the runs were made from, where the results do not say.
    Returns:
        The files written.
    Raises:
        InputError: there is no result yet, or the page lacks a place for one of the tables.
    """
    results = Results.read(places)
    if not results.results:
        raise InputError(f"{places.work}: got no results, expected those of `benchmarks.learning.study`; run it first")
    page = docs / PAGE
    blocks = {
        "claims": tables.claims(results),
        "heads": tables.heads(results),
        "noise": tables.noise(results),
        "ablations": tables.ablations(results),
        "runs": how_made(results, places, commit),
    }
    text = fill(page.read_text("utf-8"), blocks, page)
    images = docs / PICTURES
    images.mkdir(exist_ok=True)
    drawn = [
        draw_heads(results, images / "learning-heads.png"),
        draw_noise(results, images / "learning-noise.png"),
        draw_history(results, images / "learning-history.png"),
    ]
    figures = {run.slug: _short(result) for run, result in results.results.items()}
    write_text(docs / FIGURES, json_text(figures))
    write_text(page, text)
    return [page, docs / FIGURES, *drawn]


def fill(text: str, blocks: dict[str, list[str]], page: Path) -> str:
    """The page with its marked places filled anew.

    >>> fill("a\\n<!-- t -->\\nold\\n<!-- end -->\\nb\\n", {"t": ["new"]}, Path("p")).split("\\n")
    ['a', '<!-- t -->', 'new', '<!-- end -->', 'b', '']
    """
    for name, lines in blocks.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise InputError(f"{page}: got no '<!-- {name} -->' ... '<!-- end -->', expected a place for the table")
        body = "\n".join(lines).rstrip() + "\n"
        text = place.sub(lambda found, body=body: found[1] + body + found[2], text)  # type: ignore[misc]
    return text


def how_made(results: Results, places: Places, commit: str | None) -> list[str]:
    """Which runs there are, and on what they were made."""
    where = next((r["where"] for r in results.results.values() if "where" in r), None) or environment()
    commit = commit or where["commit"]
    machine, versions = where["machine"], _versions(results, places) or where["versions"]
    steps = sorted({result["steps"] for result in results.results.values()})
    speed = sorted(result["samples_per_second"] for result in results.results.values())
    lines = [
        f"- {len(results.results)} of {len(results.runs)} planned runs are in these figures, {_some(steps)} steps.",
        f"- Machine: {machine['cpu']}, {machine['cpus']} cores shared with other programs, one thread per run; "
        f"{speed[0]:.0f} to {speed[-1]:.0f} samples/s, input loading left out.",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"- Commit of the runs: {commit or 'not recorded'}.",
    ]
    return [*lines, f"- Not run: {_missing(results) or 'none'}."]


def _missing(results: Results) -> str:
    """Runs without a result, by kind."""
    seeds: dict[str, list[int]] = {}
    for run in results.missing:
        name = f"{run.name}, {run.share:.0%} noise" if run.share else run.name
        seeds.setdefault(name, []).append(run.seed)
    return "; ".join(f"{name} (seeds {', '.join(map(str, some))})" for name, some in seeds.items())


def _versions(results: Results, places: Places) -> dict[str, Any] | None:
    """Of the packages that a run was made with, as its card says."""
    cards = (places.run(run) / "card.json" for run in results.results)
    card = next((file for file in cards if file.exists()), None)
    return None if card is None else dict(json.loads(card.read_text("utf-8"))["versions"])


def _short(result: Result) -> Result:
    """A result without its history."""
    return {name: value for name, value in _finite(result).items() if name != "history"}


def _finite(value: Any) -> Any:
    """NaN has no place in JSON."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, float):
        return round(value, 4) if value == value else None
    return value


def _some(numbers: list[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
