"""Processor, memory and NVIDIA GPUs of this machine. torch is imported only where there is a GPU to ask it about."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from img_deploy.runtime.backends.machine import cuda_devices

CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
"""Those of the processor's flags that the backends' speed depends on, as Linux names them."""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU. What could not be asked for is None."""

    name: str
    compute_capability: str | None
    memory_gib: float | None
    driver: str | None


def cpu_name() -> str:
    """Model of the processor, as the system calls it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> tuple[str, ...] | None:
    """Those of :data:`CPU_FLAGS` that this processor has; None where the system does not say."""
    for line in _cpuinfo():
        if line.startswith("flags"):
            has = set(line.partition(":")[2].split())
            return tuple(flag for flag in CPU_FLAGS if flag in has)
    return None


@lru_cache(maxsize=1)
def _cpuinfo() -> tuple[str, ...]:
    try:
        return tuple(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return ()


def memory_gib() -> float | None:
    """Memory of the machine, or the limit of this process's container where that is less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    with suppress(OSError, ValueError):  # no limit ("max"), or a system without cgroups
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return round(total / 2**30, 1)


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs: those that PyTorch can use, else those that ``nvidia-smi`` lists, else none."""
    listed = _from_nvidia_smi()
    if cuda_devices() and find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            driver = listed[0].driver if listed else _kernel_driver()
            return tuple(_from_torch(index, driver) for index in range(torch.cuda.device_count()))
    return listed


def _from_torch(index: int, driver: str | None) -> Gpu:
    import torch

    found = torch.cuda.get_device_properties(index)
    return Gpu(found.name, f"{found.major}.{found.minor}", round(found.total_memory / 2**30, 1), driver)


def _from_nvidia_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    return tuple(Gpu(row[0], row[1], _gib(row[2]), row[3]) for row in rows if len(row) == 4)


def _gib(mebibytes: str) -> float | None:
    try:
        return round(float(mebibytes) / 1024, 1)
    except ValueError:
        return None


def _kernel_driver() -> str | None:
    try:
        line = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return next((word for word in line.split() if word[:1].isdigit() and "." in word), None)
