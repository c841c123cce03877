"""One profile of a bundle on this machine: its cases, its starts, and where they were measured."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img_deploy.benchmarks.contenders import Lineup, open_contenders
from img_deploy.benchmarks.environment import environment, headline
from img_deploy.benchmarks.latency import CaseResult, Grid, measure
from img_deploy.benchmarks.starts import StartResult, measure_starts
from img_deploy.benchmarks.timing import Effort
from img_deploy.benchmarks.workload import SETS, Drawn, FromFolder, Workload
from img_deploy.errors import InputError
from img_deploy.hardware import OtherPrograms
from img_deploy.runtime.bundle import Bundle

SCHEMA = 1

BUSY = 0.2
"""Share of the cores from which on the work of other programs is worth a note."""

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
    told: tuple[str, ...] = ()
    """What did not go as the backends planned, such as a CUDA graph that could not be captured."""
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
        notes += self.told
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
        batch, clips = max(grid.batch_sizes), max(grid.clips)
        numbers = SETS * batch * clips * (workload.rules.video.width + workload.rules.audio.width)
        memory = where["machine"]["memory_gib"]
        if memory is not None and numbers * 4 / 2**30 > memory:  # the system would kill the program
            raise InputError(
                f"batch size {batch}: inputs of {clips} clips take {numbers * 4 / 2**30:,.0f} GiB, this machine has "
                f"{memory}; give a smaller one"
            )
        total = len(grid) + (len(started) if options.starts else 0)
        cases = measure(
            lineup, workload, grid, options.effort, lambda batch, clips: on_step(f"batch {batch}, {clips} clips", total)
        )
        told = tuple(line for one in lineup.contenders for line in one.notes())
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
        told=told,
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
