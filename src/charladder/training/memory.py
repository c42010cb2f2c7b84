"""Peak memory of this process, or of the GPU that it used."""

import sys

import torch


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
