"""Memory habits of a training process."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_BLOCK = 32 << 20
_KEEP = 1 << 30


def keep_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory for the next allocation; True where that took effect.

    Without it every large tensor of a step on the CPU is mapped, zeroed page by page and unmapped again, which
    costs as much as what is done with it.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _BLOCK) and mallopt(_M_TRIM_THRESHOLD, _KEEP))
