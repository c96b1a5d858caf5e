"""The device that models run on: which one it is, its allocator, transfers to and from it, and its peak memory.

On a GPU neither host nor device waits for numbers on their way between them, which ordinary memory of the host would
make them do. On a CPU, memory that every step of training or generating frees and takes again stays with the process.
"""

import ctypes
import resource
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc, malloc.h
LARGEST_INT = 2**31 - 1


def default_device() -> torch.device:
    """This machine's GPU, or its CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_kind(tensor: Tensor) -> Literal["cpu", "cuda"]:
    """What choices of block sizes depend on; every device that is no processor counts as a GPU."""
    return "cpu" if tensor.device.type == "cpu" else "cuda"


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


def peak_memory_bytes() -> int:
    """Largest memory so far: of the GPU's allocator, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def on_host(numbers: Sequence | np.ndarray, dtype: type[np.generic], device: torch.device) -> Tensor:
    """Numbers where the device can fetch them from when it gets there."""
    # numpy reads a list in a quarter of the time that torch takes.
    numbers_on_host = torch.from_numpy(np.array(numbers, dtype=dtype))
    return numbers_on_host.pin_memory() if device.type == "cuda" else numbers_on_host


def to_device(numbers: Sequence | np.ndarray, dtype: type[np.generic], device: torch.device) -> Tensor:
    """Numbers of the host on the device."""
    return on_host(numbers, dtype, device).to(device, non_blocking=True)


class Answer:
    """A copy of a result, begun at once, so that the host can ask for more work before it waits for it."""

    def __init__(self, result: Tensor) -> None:
        self._host, self._event = result, None
        if result.device.type == "cuda":
            self._host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            self._host.copy_(result, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def wait(self) -> np.ndarray:
        """Its numbers, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()
