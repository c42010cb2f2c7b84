"""Memory of this process: its peak, or that of the GPU that it used, and whether it is kept."""

import ctypes
import os
import sys
from pathlib import Path

import torch

from charladder.errors import UserError
from charladder.model import ModelConfig

_M_TRIM_THRESHOLD = -1  # parameters of mallopt, from malloc.h
_M_MMAP_MAX = -4


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


def retain_freed_memory() -> None:
    """Lets this process keep the memory that large tensors give back, instead of asking for it anew at every step.

    The system hands out fresh pages zeroed, one fault at a time, which costs more than filling them. Only where the C
    library is GNU's; elsewhere nothing happens.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def free_and_total_memory() -> tuple[int, int] | None:
    """Bytes of main memory that are free, and bytes that there are; None where the system does not tell."""
    if not (hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names):
        return None
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    info = Path("/proc/meminfo")
    if not info.is_file():
        return there, there
    found = [line.split()[1] for line in info.read_text().splitlines() if line.startswith("MemAvailable:")]
    return (1024 * int(found[0]) if found else there), there


def context_bytes(model: ModelConfig) -> int:
    """Bytes in float32 of what one stream of the whole context needs beside the weights: keys and values of all layers,
    and the angles or the signal of its positions."""
    positions = {"rotary": model.head_size, "sinusoidal": model.width}.get(model.positions, 0)
    return 4 * model.context * (2 * model.layers * model.width + positions)


def check_context_memory(model: ModelConfig, run: str) -> None:
    """Raises UserError where one stream of the context of the network of `run` does not fit into the free memory."""
    memory, needed = free_and_total_memory(), context_bytes(model)
    if memory is not None and needed > memory[0]:
        raise UserError(
            f"{run} has a context of {model.context:,} characters, which needs {needed / 2**30:,.1f} GiB of memory, "
            f"and {memory[0] / 2**30:,.1f} GiB are free; use a machine with more, or a run of a shorter context"
        )
