"""The page of a CPU measurement, in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from img_deploy.benchmarks.latency import CaseResult
from img_deploy.benchmarks.profile import Profile, ms
from img_deploy.benchmarks.timing import Ratio


def results_page(profile: Profile, checks: Mapping[str, Any], notes: Mapping[str, str], command: str) -> str:
    """Everything a reader needs to judge the figures, and to make them again.

    Args:
        checks: what was verified before the timing.
        notes: contender -> what it is.
        command: what made the figures.
    """
    machine, versions = profile.where["machine"], profile.where["versions"]
    export = checks["export"]["rows"]
    fused = [row for row in export if row["graph"] == "grounder" and row["backend"] in ("onnxruntime", "aoti")]
    lines = [
        "# Speed on a CPU",
        "",
        f"Made by `{command}`; every figure is in `cpu.json`.",
        "",
        f"- Machine: {machine['cpu']}, {machine['cpus']} cores ({' '.join(machine['cpu_flags'] or ['no flags'])}), "
        f"{machine['memory_gib']} GiB, {machine['platform']}; other programs kept {profile.neighbours} cores busy "
        "meanwhile.",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"- Commit {profile.where['commit']}, {profile.where['time']}; threads: "
        f"{profile.where['threads'] or 'each backend its own choice (all cores)'}.",
        "- Network: random weights, full size (D = 128, video 1024, audio 2048, GloVe variant), fp32; "
        f"inputs {profile.inputs}, {profile.words} words per query.",
        "- Checked before timing: the published way of computing is off by at most "
        f"{checks['published_difference']:.1e} from the network; "
        + "; ".join(
            f"{row['backend']} {row['precision']}'s grounder by {row['largest']:.1e}, same best span in "
            f"{row['agreement']:.1%} of {row['samples']} samples"
            for row in fused
        )
        + ".",
        "- All versions answered the same batches in turns (A B C D, then B C D A, ...), on rotating inputs. A ratio "
        "is the median over rounds of eager PyTorch's time over the version's in the same round; in brackets its "
        "quartiles. Latency is from features in memory and a sentence to the moment, for the whole batch; asked is a "
        "further query on videos that are encoded already.",
        "",
        *(f"- `{name}`: {text}." for name, text in notes.items() if name in {case.backend for case in profile.cases}),
        "",
    ]
    for note in profile.notes():
        lines += [f"Note: {note}.", ""]
    for clips in sorted({case.clips for case in profile.cases}):
        lines += [f"## {clips} clips", "", *_table([case for case in profile.cases if case.clips == clips]), ""]
    return "\n".join([*lines, *_stages(profile), *_starts(profile)])


def _table(cases: Sequence[CaseResult]) -> list[str]:
    head = "batch | version | p50 ms | p90 ms | least ms | pairs/s | vs eager | asked p50 ms | asked vs eager | rounds"
    rows = [
        f"{case.batch} | {case.backend} | {ms(case.latency.p50)} | {ms(case.latency.p90)} | {ms(case.latency.low)} | "
        f"{case.pairs_per_second:.1f} | {_ratio(case.ratio)} | {ms(case.asked.p50)} | {_ratio(case.asked_ratio)} | "
        f"{case.latency.count}"
        for case in cases
    ]
    return framed(head, rows)


def _stages(profile: Profile) -> list[str]:
    columns = profile.stage_columns()
    rows = [" | ".join(cells) for cells in zip(*columns.values(), strict=True)]
    text = "Medians in milliseconds for the whole batch; decode is all that surrounds the grounder's graph."
    return ["## Stages", "", text, "", *framed(" | ".join(columns), rows), ""]


def _starts(profile: Profile) -> list[str]:
    if not profile.starts:
        return []
    columns = profile.start_columns()
    rows = [" | ".join(cells) for cells in zip(*columns.values(), strict=True)]
    text = (
        "Medians in milliseconds, a fresh process each (files in the system's memory), one pair of the longest video."
    )
    return ["## From nothing to the first answer", "", text, "", *framed(" | ".join(columns), rows), ""]


def framed(head: str, rows: Sequence[str]) -> list[str]:
    rule = " | ".join("---" for _ in head.split(" | "))
    return [f"| {line} |" for line in (head, rule, *rows)]


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.p50:.2f} ({ratio.p25:.2f}-{ratio.p75:.2f})"
