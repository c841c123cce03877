"""Where and with what a measurement was made: machine, versions, commit."""

import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from img_deploy.errors import InputError
from img_deploy.hardware import MOST_THREADS, hardware, package_versions


def environment(threads: int | None = None) -> dict[str, Any]:
    """Plain values to keep beside every figure.

    Args:
        threads: CPU threads asked for; None where each backend took its own number.
    """
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": asdict(hardware()) | {"load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None},
        "versions": {"python": platform.python_version()}
        | {name: version for name, version in package_versions().items() if version is not None},
        "threads": threads,
    }


def use_threads(threads: int) -> None:
    """So many of PyTorch's. Raises InputError: below 1, or above what may be asked for."""
    import torch

    if not 1 <= threads <= MOST_THREADS:
        raise InputError(f"threads: got {threads}, expected 1 to {MOST_THREADS}")
    torch.set_num_threads(threads)


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
