"""Memory-mapped texts."""

import mmap

import numpy as np


def release(ids_N: np.ndarray) -> None:
    """Lets go of the pages of a memory map that were read, so that a long run holds no more of a text than a short one.

    They stay in the system's cache as long as it has room.
    """
    pages = getattr(ids_N, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
