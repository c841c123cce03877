"""Scores as a table."""

from typing import TYPE_CHECKING

from img_deploy.cli.tables import print_table

if TYPE_CHECKING:
    from img_deploy.training.evaluate import Evaluation


def print_scores(evaluation: "Evaluation", title: str) -> None:
    """Heads and groups of queries, in percent with 95% intervals; then the scores by moment length."""
    rows = evaluation.scores
    columns = {
        "head": [row.head for row in rows],
        "queries of videos": [row.group for row in rows],
        "queries": [str(row.queries) for row in rows],
    }
    for name in rows[0].metrics:
        columns[name] = [
            f"{row.metrics[name].value:.2f} ({row.metrics[name].low:.1f} to {row.metrics[name].high:.1f})"
            for row in rows
        ]
    print_table(columns, numbers=("queries", *rows[0].metrics), title=title)


def print_bins(evaluation: "Evaluation") -> None:
    """R1@0.5 of each head in five bins of moment length over video length."""
    bins = next(iter(evaluation.ratio_bins.values()))
    columns = {
        "moment / video": [f"{part.low:.1f} to {part.high:.1f}" for part in bins],
        "queries": [str(part.queries) for part in bins],
    }
    for head, parts in evaluation.ratio_bins.items():
        columns[head] = [f"{part.metrics['R1@0.5']:.2f}" if part.metrics else "-" for part in parts]
    print_table(columns, numbers=("queries", *evaluation.ratio_bins), title="R1@0.5 by moment length")
