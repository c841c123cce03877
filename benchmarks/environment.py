"""Where and with what a measurement was made: machine, versions, commit."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from img_deploy.runtime.backends.machine import usable_cpus
from img_deploy.runtime.hardware import cpu_flags, cpu_name, gpus, memory_gib
from img_deploy.runtime.machine_report import package_versions


def environment(threads: int | None = None) -> dict[str, Any]:
    """Plain values to keep beside every figure.

    Args:
        threads: CPU threads asked for; None where each backend took its own number.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "platform": f"{platform.platform(terse=True)} {platform.machine()}",
            "cpu": cpu_name(),
            "cpus": usable_cpus(),
            "cpu_flags": cpu_flags(),
            "memory_gib": memory_gib(),
            "gpus": [{"name": gpu.name, "driver": gpu.driver} for gpu in gpus()],
            "load": _load(),
        },
        "versions": {"python": platform.python_version()}
        | {name: version for name, version in package_versions().items() if version is not None},
        "threads": threads,
    }


class Neighbours:
    """How many cores other programs keep busy, from when it is made: what a timing has to share the machine with."""

    def __init__(self) -> None:
        self._begin = self._now()

    def cores(self) -> float | None:
        """Mean over the time since; None where the system does not say."""
        if self._begin is None or (now := self._now()) is None:
            return None
        passed, busy, own = (after - before for after, before in zip(now, self._begin, strict=True))
        return round(max(0.0, busy - own) / passed, 2) if passed > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds: of the clock, of work on the CPUs that this process may use, of this process and its children."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        try:
            mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
            # user, nice, system, idle, iowait, irq, softirq, steal: all but the two of doing nothing
            ticks = sum(int(row[at]) for row in rows if row and row[0] in mine for at in (1, 2, 3, 6, 7, 8))
            return times.elapsed, ticks / os.sysconf("SC_CLK_TCK"), own
        except (AttributeError, OSError, ValueError, IndexError):
            return None


def headline(where: dict[str, Any]) -> str:
    """One line of an environment, for people.

    >>> headline({"machine": {"cpu": "EPYC", "cpus": 2, "gpus": []}, "versions": {"torch": "2.13.0"},
    ...           "threads": None, "commit": None})
    'EPYC, 2 cores; torch 2.13.0; threads (the choice of each backend)'
    """
    machine, versions = where["machine"], where["versions"]
    hardware = [f"{machine['cpu']}, {machine['cpus']} cores", *(gpu["name"] for gpu in machine["gpus"])]
    names = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "triton", "numpy", "python")
    parts = [", ".join(hardware), ", ".join(f"{name} {versions[name]}" for name in names if name in versions)]
    parts.append(f"threads {where['threads'] or '(the choice of each backend)'}")
    if where["commit"]:
        parts.append(f"commit {where['commit']}")
    return "; ".join(parts)


def commit() -> str | None:
    """Commit of the checkout that this package runs from, ``-dirty`` where tracked files differ; None outside one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{name}-dirty" if changed else name


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def _load() -> float | None:
    """Mean number of busy CPUs in the last minute, before the measurement; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
