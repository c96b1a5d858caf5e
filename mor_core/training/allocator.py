"""Memory that every step of training or generating frees and takes again stays with the process."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc, malloc.h
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library not to give freed blocks back to the system; false where it has no such switch.

    A step frees and allocates the same blocks again and again. Where glibc returns the large ones, each step
    pays a page fault for every 4 kB of them, which on a CPU costs as much as a fifth of the step. The peak stays as it
    is. For a process that does nothing else, before it makes its first tensor.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST_INT))


def give_back_freed_memory() -> None:
    """Return to the system what was kept and is free: after a failure for want of memory, before less is tried."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
