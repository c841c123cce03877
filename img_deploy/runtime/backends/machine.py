"""What this machine has, told without loading a framework."""

import ctypes
import os
import sys
from functools import lru_cache


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


def usable_cpus() -> int:
    """CPUs that this process may run on: fewer than the machine's in a container or under taskset."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
