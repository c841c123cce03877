"""What this machine has: processor, memory, NVIDIA GPUs, versions. torch is imported only where a GPU is."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")
"""Those of the processor's flags that the backends' speed depends on, as Linux names them."""
MOST_THREADS = 1024
"""CPU threads that may be asked for: a system that cannot start so many ends the program."""
PACKAGES = (
    "img-deploy",
    "torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "triton",
    "numpy",
)
"""Distributions whose versions are told."""
TENSORRT_DISTRIBUTIONS = {
    "tensorrt": ("", "-cu12", "-cu13", "-cu12-bindings", "-cu13-bindings"),
    "tensorrt-rtx": ("", "-cu12", "-cu13", "-cu12-bindings", "-cu13-bindings"),
}
"""What each edition's distributions end in."""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU. What could not be asked for is None."""

    name: str
    compute_capability: str | None
    memory_gib: float | None
    driver: str | None


@dataclass(frozen=True)
class Hardware:
    """The machine at hand; what the system does not tell is None."""

    platform: str
    cpu: str
    cpus: int
    """That this process may use."""
    cpu_flags: tuple[str, ...] | None
    """Those of :data:`CPU_FLAGS` that the processor has."""
    memory_gib: float | None
    gpus: tuple[Gpu, ...]


def hardware() -> Hardware:
    """Ask the system."""
    return Hardware(
        platform=f"{platform.platform(terse=True)} {platform.machine()}",
        cpu=_cpuinfo("model name") or platform.processor() or platform.machine(),
        cpus=usable_cpus(),
        cpu_flags=_cpu_flags(),
        memory_gib=_memory_gib(),
        gpus=gpus(),
    )


def usable_cpus() -> int:
    """CPUs that this process may run on: fewer than the machine's in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=1)
def cuda_devices() -> int:
    """NVIDIA GPUs that this process may use, asked of the driver; 0 without one."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def why_no_gpu(through_torch: bool = True) -> str | None:
    """Why this process cannot use an NVIDIA GPU; None if it can. PyTorch is imported only where there is one.

    Args:
        through_torch: ask also whether PyTorch can use it.
    """
    if not cuda_devices():
        return "no NVIDIA GPU"
    if not through_torch:
        return None
    if find_spec("torch") is None:
        return "torch is not installed (pip install 'img-deploy[gpu]')"
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} cannot use the GPU"


def gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs: those that PyTorch can use, else those that ``nvidia-smi`` lists, else none."""
    listed = _from_nvidia_smi()
    if why_no_gpu() is not None:
        return listed
    import torch

    driver = listed[0].driver if listed else None
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return tuple(Gpu(one.name, f"{one.major}.{one.minor}", round(one.total_memory / 2**30, 1), driver) for one in found)


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


def _memory_gib() -> float | None:
    """Memory of the machine, or the limit of this process's container where that is less."""
    with suppress(ImportError):
        import psutil

        total = psutil.virtual_memory().total
        with suppress(OSError, ValueError):  # no limit ("max"), or a system without cgroups
            total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
        return round(total / 2**30, 1)
    return None


def _cpu_flags() -> tuple[str, ...] | None:
    flags = _cpuinfo("flags")
    return None if flags is None else tuple(flag for flag in CPU_FLAGS if flag in flags.split())


def _cpuinfo(field: str) -> str | None:
    """The first value of a field of Linux's ``/proc/cpuinfo``: neither the standard library nor psutil tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return None


def version_of(distribution: str) -> str | None:
    """Installed version of a distribution, None without it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_versions() -> dict[str, str | None]:
    """Versions of :data:`PACKAGES`; TensorRT under whichever name it is installed, None where not installed."""
    versions = {name: version_of(name) for name in PACKAGES}
    for name, ends in TENSORRT_DISTRIBUTIONS.items():
        versions[name] = next((found for end in ends if (found := version_of(name + end))), None)
    return versions


class OtherPrograms:
    """How many cores other programs keep busy, from when it is made: what a timing has to share the machine with."""

    def __init__(self) -> None:
        self._begin = self._now()

    def cores(self) -> float:
        """Mean over the time since."""
        passed, busy, own = (after - before for after, before in zip(self._now(), self._begin, strict=True))
        return round(max(0.0, busy - own) / passed, 2) if passed > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of the clock, of work on all CPUs, of this process and its children."""
        import psutil

        times: Any = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        cpu = psutil.cpu_times()._asdict()
        busy = sum(seconds for name, seconds in cpu.items() if name not in ("idle", "iowait", "guest", "guest_nice"))
        return times.elapsed, busy, own
