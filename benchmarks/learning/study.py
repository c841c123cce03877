"""Run the study: ``python -m img_deploy.benchmarks.learning.study WORK --jobs 2 --docs docs``.

Runs that have a result are not repeated and unfinished ones go on, so the command can be stopped and started again.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from img_deploy.benchmarks.learning.plan import SEEDS, SHARES, Places, Run, planned, synthetic_config
from img_deploy.training.synthetic.noise import replace_audio_with_noise
from img_deploy.training.synthetic.writer import write_synthetic

STEPS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for data, runs and results; about 4 GB")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps per run")
    parser.add_argument("--docs", type=Path, help="bring learning.md in this folder up to the results, and leave")
    parser.add_argument("--commit", help="with --docs: of the runs, where they were not made in a checkout")
    parser.add_argument("--run", help="make this one run alone, by its name in the folder of results")
    given = parser.parse_args()
    places = Places(given.work)
    if given.run is not None:
        from img_deploy.benchmarks.learning.measure import measure_and_keep

        measure_and_keep(next(run for run in planned() if run.slug == given.run), places, given.steps)
        return
    if given.docs is not None:
        from img_deploy.benchmarks.learning.report import write_report

        for path in write_report(places, given.docs, given.commit):
            print(path)
        return
    generate(places)
    failed = run_all(places, given.jobs, given.steps)
    sys.exit(f"{failed} runs failed; their output is in {given.work / 'logs'}" if failed else 0)


def generate(places: Places) -> None:
    """The synthetic sets of all seeds and shares of noise, where they are not there yet."""
    for seed in SEEDS:
        if not places.data(seed).exists():
            write_synthetic(places.data(seed), synthetic_config(seed))
        for share in SHARES:
            if share and not places.data(seed, share).exists():
                replace_audio_with_noise(places.data(seed), places.data(seed, share), share, seed)


def run_all(places: Places, jobs: int, steps: int) -> int:
    """All runs without a result, ``jobs`` at a time, each in a process of its own; returns how many failed."""

    def in_a_process(run: Run) -> bool:
        log = places.work / "logs" / f"{run.slug}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        module = "img_deploy.benchmarks.learning.study"
        command = [sys.executable, "-m", module, str(places.work), "--steps", str(steps), "--run", run.slug]
        with log.open("wb") as output:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            code = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode
        print(f"{time.strftime('%H:%M:%S')} {run.slug}: {f'failed with {code}' if code else 'done'}", flush=True)
        return bool(code)

    with ThreadPoolExecutor(jobs) as pool:
        return sum(pool.map(in_a_process, (run for run in planned() if not places.result(run).exists())))


if __name__ == "__main__":
    main()
