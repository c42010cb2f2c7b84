"""Memory of this process: its peak, or that of the GPU that it used, and whether it is kept."""

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # numbers of malloc.h


def peak_bytes(device: torch.device) -> int | None:
    """The most bytes held at once so far; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def keep_memory() -> None:
    """Lets this process keep the memory that large tensors give back, instead of asking for it anew at every step.

    The system hands out fresh pages zeroed, one fault at a time, which costs more than filling them. Only where the C
    library is GNU's; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
