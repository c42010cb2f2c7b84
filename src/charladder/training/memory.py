"""Peak and free memory, the memory that a context needs, and an allocator setting that speeds up training."""

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
    """The peak memory of this process, or on CUDA of its tensors, in bytes; None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def retain_freed_memory() -> None:
    """Makes the C allocator retain the memory of freed tensors, instead of returning it to the system at every step.

    New pages come from the system zeroed, with one page fault each, which costs more than writing them. This function
    has an effect with GNU libc only.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def free_and_total_memory() -> tuple[int, int] | None:
    """Free and total main memory in bytes; None if the system does not report them."""
    if not (hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names):
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    info = Path("/proc/meminfo")
    if not info.is_file():
        return total, total
    available = [line.split()[1] for line in info.read_text().splitlines() if line.startswith("MemAvailable:")]
    return (1024 * int(available[0]) if available else total), total


def context_bytes(model: ModelConfig) -> int:
    """Bytes in float32 that one sequence of the whole context needs besides the weights: keys and values of all layers,
    and the angles or the signal of its positions."""
    positions = {"rotary": model.head_size, "sinusoidal": model.width}.get(model.positions, 0)
    return 4 * model.context * (2 * model.layers * model.width + positions)


def check_context_memory(model: ModelConfig, run: str) -> None:
    """Raises UserError, which names `run`, if one sequence of the whole context does not fit into the free memory."""
    memory, needed = free_and_total_memory(), context_bytes(model)
    if memory is not None and needed > memory[0]:
        raise UserError(
            f"{run} has a context of {model.context:,} characters, which needs {needed / 2**30:,.1f} GiB of memory, "
            f"and {memory[0] / 2**30:,.1f} GiB are free; use a machine with more, or a run of a shorter context"
        )
