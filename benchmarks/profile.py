"""One profile of a bundle on this machine: its cases, its starts, and where they were measured."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img_deploy.benchmarks.contenders import STAGES, Lineup, open_contenders
from img_deploy.benchmarks.environment import environment, headline
from img_deploy.benchmarks.latency import READ, CaseResult, Grid, measure
from img_deploy.benchmarks.starts import COLD, StartResult, measure_starts
from img_deploy.benchmarks.timing import Effort, Ratio, Summary
from img_deploy.benchmarks.workload import Drawn, FromFolder, Workload
from img_deploy.errors import InputError
from img_deploy.hardware import OtherPrograms
from img_deploy.runtime.bundle import Bundle

SCHEMA = 1

BUSY = 0.2
"""Share of the cores from which on the work of other programs is worth a note."""

Columns = dict[str, list[str]]
Step = Callable[[str, int], None]
"""Told the name of a step as it begins, and the number of steps there are."""


@dataclass(frozen=True)
class ProfileOptions:
    """What to measure. ``features`` None draws the inputs; ``starts`` fresh processes per backend, 0 for none."""

    backends: tuple[str, ...] = ()
    """Empty: all that work here."""
    grid: Grid = field(default_factory=lambda: Grid(shorten=True))
    effort: Effort = field(default_factory=Effort)
    threads: int | None = None
    features: Path | None = None
    starts: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Profile:
    """What was measured, and on what. Times in milliseconds."""

    bundle: str
    where: dict[str, Any]
    inputs: str
    words: int
    cases: tuple[CaseResult, ...]
    starts: tuple[StartResult, ...]
    out: dict[str, str]
    """Backends that were left out -> why."""
    neighbours: float | None = None
    """Cores that other programs kept busy meanwhile, on average; None where the system does not say."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "schema": SCHEMA,
            "bundle": self.bundle,
            **self.where,
            "inputs": self.inputs,
            "words": self.words,
            "cases": [case.as_dict() for case in self.cases],
            "starts": [start.as_dict() for start in self.starts],
            "neighbours": self.neighbours,
            "out": self.out,
            "notes": self.notes(),
        }

    def headline(self) -> str:
        """Machine, versions, commit and threads in one line."""
        return headline(self.where)

    def notes(self) -> list[str]:
        """What a reader of the figures should know, a line each."""
        notes = [f"{label} was left out: {why}" for label, why in self.out.items()]
        others, cpus = self.neighbours, self.where["machine"]["cpus"]
        if others is not None and others > BUSY * cpus:
            notes.append(
                f"other programs kept {others} of {cpus} cores busy meanwhile: times are too long, and with several "
                "threads ratios favour what waits for its threads least; measure again when it is quiet"
            )
        notes += [
            f"{case.backend}, batch {case.batch}, {case.clips} clips: answers differ from eager PyTorch's by "
            f"{case.difference:.1e}; its speed is not compared"
            for case in self.cases
            if case.ratio is None and case.difference is not None
        ]
        return notes

    def latency_columns(self) -> Columns:
        """The table of latencies, by heading; milliseconds."""
        return self._columns([(case.latency, case.ratio) for case in self.cases])

    def asked_columns(self) -> Columns:
        """The table of further queries on videos that are encoded already; milliseconds."""
        return self._columns([(case.asked, case.asked_ratio) for case in self.cases])

    def stage_columns(self) -> Columns:
        """The table of stages, medians in milliseconds."""
        stages = {
            name.removeprefix("encode_"): [ms(case.stages[name]) for case in self.cases] for name in (READ, *STAGES)
        }
        return self._case_names() | stages

    def _columns(self, times: Sequence[tuple[Summary, Ratio | None]]) -> Columns:
        return self._case_names() | {
            "p50": [ms(summary.p50) for summary, _ in times],
            "p90": [ms(summary.p90) for summary, _ in times],
            "p99": [ms(summary.p99) for summary, _ in times],
            "pairs/s": [
                f"{1000 * case.batch / summary.p50:.1f}" for case, (summary, _) in zip(self.cases, times, strict=True)
            ],
            "speedup": [_ratio(ratio) for _, ratio in times],
            "n": [str(summary.count) for summary, _ in times],
        }

    def _short(self, label: str) -> str:
        """A backend's label, without the device where there is one device alone."""
        devices = {case.backend.partition(":")[2] for case in self.cases}
        return label.removesuffix(f":{min(devices)}") if len(devices) == 1 else label

    def _case_names(self) -> Columns:
        return {
            "backend": [self._short(case.backend) for case in self.cases],
            "batch": [str(case.batch) for case in self.cases],
            "clips": [str(case.clips) for case in self.cases],
        }

    def start_columns(self) -> Columns:
        """The table of starts, medians in milliseconds."""
        columns = {"backend": [self._short(start.backend) for start in self.starts]}
        for name in (*COLD, "total"):
            columns[name.replace("_", " ")] = [ms(start.cold[name]) for start in self.starts]
        columns["warm"] = [ms(start.warm["total"]) for start in self.starts]
        return columns


def run_profile(bundle: Bundle, options: ProfileOptions, on_step: Step = lambda _name, _total: None) -> Profile:
    """Measure.

    Args:
        on_step: called before every step with its name and the number of steps there are.

    Raises:
        InputError: options that the bundle or the folder of features cannot take, or no such backend.
        BackendError: a backend that was asked for does not work here, or failed while running.
        BundleError: a file of the bundle is missing, damaged or tampered with.
    """
    if options.starts < 0:
        raise InputError(f"starts: got {options.starts}, expected at least 0")
    where = environment(options.threads)
    lineup = open_contenders(bundle, options.backends, options.threads)
    return measure_lineup(bundle, lineup, options, where, [one.label for one in lineup.contenders], on_step)


def measure_lineup(
    bundle: Bundle,
    lineup: Lineup,
    options: ProfileOptions,
    where: dict[str, Any],
    started: Sequence[str],
    on_step: Step = lambda _name, _total: None,
) -> Profile:
    """Measure contenders that are open, and close them.

    Args:
        where: the environment as it was before the work began.
        started: backends to start in fresh processes.

    Raises as :func:`run_profile`.
    """
    neighbours = OtherPrograms()
    try:
        workload = _workload(options, lineup.contenders[0].predictor.rules)
        grid = options.grid.fitted(bundle.manifest.limits, workload.longest())
        total = len(grid) + (len(started) if options.starts else 0)
        cases = measure(
            lineup, workload, grid, options.effort, lambda batch, clips: on_step(f"batch {batch}, {clips} clips", total)
        )
    finally:
        lineup.close()
    starts = []
    for label in started if options.starts else ():
        on_step(f"starts of {label}", total)
        size = (max(grid.clips), grid.words)
        starts.append(measure_starts(str(bundle.folder), label, *size, options.threads, options.starts))
    return Profile(
        bundle=str(bundle.folder),
        where=where,
        inputs=str(workload),
        words=grid.words,
        cases=tuple(cases),
        starts=tuple(starts),
        out=lineup.out,
        neighbours=neighbours.cores(),
    )


def _workload(options: ProfileOptions, rules: Any) -> Workload:
    if options.features is None:
        return Drawn(rules, options.grid.words, options.seed)
    return FromFolder(options.features, rules, options.grid.words, options.seed)


def check_writable(path: Path) -> None:
    """Raise InputError where a file cannot be written: better before minutes of measuring than after them."""
    folder = path.parent
    if path.is_dir():
        raise InputError(f"{path}: got a folder, expected the name of a file to write")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: cannot be written, {folder} is not a folder that can be; give another path")


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write atomically. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def ms(value: float) -> str:
    """Milliseconds as tables show them: three significant digits, more from 1000 on."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.p50:.2f}x"
