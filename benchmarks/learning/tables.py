"""The tables of docs/learning.md, in Markdown, and the claims that they are held against."""

from img_deploy.benchmarks.learning.plan import ABLATIONS, GRANULARITIES, SEEDS, SHARES, TRAINED_SHARES
from img_deploy.benchmarks.learning.results import Figure, Results
from img_deploy.benchmarks.page import table

LOOK_ALIKE, SILENT, OWN, SIGHT = "look-alike, sound decides", "silent action", "own look and sound", "sight can answer"
GROUPS = ("all", LOOK_ALIKE, SILENT, OWN, SIGHT, "audio is noise", "no audio")
HEADS = ("fused", "visual", "audio")
PREDICTED = ("full", "no importance")
"""Networks with and without the importance predictor."""
NOISE = 2.0
"""Points within which two accuracies of some 200 queries count as equal."""


def claims(results: Results) -> list[str]:
    """What a trained network must show, what was asked of it, what it shows, and whether that is enough."""
    r5, r7 = (results.score("all", "fused", metric) for metric in ("R1@0.5", "R1@0.7"))

    def lead(group: str, name: str = "full") -> Figure:
        """Fused minus visual head."""
        return _minus(*(results.score(group, head, "R1@0.5", name).by_seed for head in ("fused", "visual")))

    gain, silent, sight = (lead(group) for group in (LOOK_ALIKE, SILENT, SIGHT))
    alone = lead(SIGHT, "no distillation")
    distilled = (results.score(SIGHT, "visual", "R1@0.5", name) for name in ("full", "no distillation"))
    extra = _minus(*(figure.by_seed for figure in distilled))
    weight = _minus(*(results.importance(group).by_seed for group in (LOOK_ALIKE, SILENT)))
    fall = _minus(*(results.importance("all", "full", share).by_seed for share in (0.0, 1.0)))
    rows = [
        ("fused head, R@1 at IoU 0.5", "at least 95", r5, r5.mean >= 95, 1),
        ("fused head, R@1 at IoU 0.7", "at least 90", r7, r7.mean >= 90, 1),
        ("look-alike actions: fused above visual head", "at least 25 points", gain, gain.low >= 25, 1),
        ("silent actions: fused above visual head", f"0 within {NOISE:g}", silent, abs(silent.mean) <= NOISE, 1),
        ("importance: look-alike above silent actions", "above 0 in every seed", weight, weight.low > 0, 2),
        ("importance: fall when all audio is noise, in training too", "above 0 in every seed", fall, fall.low > 0, 2),
        ("where sight can answer: fused above visual head", "at most 2 points", sight, sight.mean <= 2, 1),
        ("the same without distillation", "more than with it", alone, alone.mean > sight.mean, 1),
        ("where sight can answer: visual head, gain by distillation", "above 0", extra, extra.mean > 0, 1),
    ]
    return table(
        ("what", "asked", "found: mean (least to greatest)", "by seed", ""),
        [
            (what, asked, found.text(digits), _each(found, digits), _verdict(found, met))
            for what, asked, found, met, digits in rows
        ],
    )


def heads(results: Results) -> list[str]:
    """Every head on every group of test queries."""
    names = ("queries", "of them", "fused R@1 0.7", "fused R@1 0.5", "visual R@1 0.5", "audio R@1 0.5", "importance")
    rows = []
    for group in GROUPS:
        found = [results.score(group, "fused", "R1@0.7")]
        found += [results.score(group, head, "R1@0.5") for head in HEADS]
        cells = [figure.text() if figure.values else "-" for figure in found]
        importance = results.importance(group)
        rows.append((group, _count(results.queries(group)), *cells, importance.text(2) if importance.values else "-"))
    chance = [results.chance(metric).text() for metric in ("R1@0.7", "R1@0.5")]
    rows.append(("chance: another query's moment", _count(results.queries("all")), *chance, "", "", ""))
    return table(names, rows)


def noise(results: Results) -> list[str]:
    """Accuracy and importance against the share of videos whose audio is noise."""
    rows = []
    for share in SHARES:
        cells = [results.noised_score(share, "all", "fused", "R1@0.5", name).text() for name in PREDICTED]
        cells.append(results.noised_importance(share, "all").text(2))
        if share in (0.0, *TRAINED_SHARES):
            cells += [results.score("all", "fused", "R1@0.5", name, share).text() for name in PREDICTED]
            cells.append(results.importance("all", "full", share).text(2))
        rows.append((f"{share:.0%}", results.ceiling(share).text(), *cells, *[""] * (6 - len(cells))))
    tested, trained = "noise in the test: with predictor", "in training too: with predictor"
    head = ("share of noise", "ceiling", tested, "without", "importance", trained, "without", "importance")
    return table(head, rows)


def ablations(results: Results) -> list[str]:
    """The networks that lack a part."""
    rows = []
    for name in (*ABLATIONS, *GRANULARITIES):
        cells = [
            results.score("all", "fused", "R1@0.5", name),
            results.score("all", "fused", "R1@0.7", name),
            results.score(LOOK_ALIKE, "fused", "R1@0.5", name),
            results.score("all", "visual", "R1@0.5", name),
            results.score(SIGHT, "visual", "R1@0.5", name),
            results.score(SIGHT, "fused", "R1@0.5", name),
        ]
        steps = results.figure(lambda result: first_step(result, "fused", 90.0), name)
        rows.append((name, _seeds(results, name), *(cell.text() for cell in cells), steps.text(0)))
    return table(
        (
            *("network", "seeds", "fused R@1 0.5", "fused R@1 0.7", "fused, look-alike", "visual R@1 0.5"),
            *("visual, sight can answer", "fused, sight can answer", "steps to 90"),
        ),
        rows,
    )


def first_step(result: dict[str, object], head: str, score: float) -> float | None:
    """The first evaluated step at which a head's R@1 at 0.5 on the validation videos was at least ``score``."""
    history: list[dict[str, float]] = result["history"]  # type: ignore[assignment]
    return next((float(row["step"]) for row in history if row[f"{head}/R1@0.5"] >= score), None)


def _minus(first: dict[int, float], second: dict[int, float]) -> Figure:
    """One quantity less another, seed by seed, over the seeds that have both."""
    return Figure(tuple(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())))


def _verdict(found: Figure, met: bool) -> str:
    if not found.values:
        return "not run"
    some = "" if len(found.values) == len(SEEDS) else f" ({len(found.values)} of {len(SEEDS)} seeds)"
    return ("met" if met else "**not met**") + some


def _each(found: Figure, digits: int) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in found.values) or "-"


def _count(found: Figure) -> str:
    same = found.low == found.high
    return f"{found.low:.0f}" if same else f"{found.low:.0f} to {found.high:.0f}" if found.values else "-"


def _seeds(results: Results, name: str, share: float = 0.0) -> str:
    return ", ".join(map(str, results.seeds(name, share))) or "not run"
