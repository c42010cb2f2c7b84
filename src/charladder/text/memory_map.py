"""Memory-mapped files of ids."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from charladder.errors import UserError
from charladder.text.cache_locks import mark_in_use


class MappedIds(np.memmap):
    """A memory-mapped file of ids that raises UserError if the file was truncated.

    Reading a page behind the end of the file ends the process with SIGBUS, so the size of the file is compared before
    each indexing. The process still ends if the file is truncated while a batch is being copied.
    """

    def __getitem__(self, index: Any) -> Any:
        if is_truncated(self):
            raise UserError(
                f"{self.filename} in the cache was cut short by another program while it was in use; run the same "
                "command again, which converts the text again"
            )
        found = super().__getitem__(index)
        return found if not isinstance(found, MappedIds) or _memory_map_of(found) else found.view(np.ndarray)


def map_ids(path: Path, dtype: type[np.uint8] | type[np.uint16]) -> MappedIds:
    """Maps the ids in a file of the cache, and marks the file as in use as long as the map exists."""
    with path.open("rb") as file:
        mark_in_use(file)
        ids_N: Any = MappedIds(file, dtype, "r")  # Any: NumPy's types say that a subclass makes a plain memmap
        return ids_N


def _memory_map_of(ids_N: np.ndarray) -> mmap.mmap | None:
    """The memory map of an array, if any."""
    pages = getattr(ids_N, "_mmap", None)
    return pages if isinstance(pages, mmap.mmap) else None


def is_truncated(ids_N: np.ndarray) -> bool:
    """Whether the file of a memory-mapped array is shorter than it was when it was opened."""
    pages = _memory_map_of(ids_N)
    return pages is not None and pages.size() < len(pages)


def release_pages(ids_N: np.ndarray) -> None:
    """Releases the pages of a memory map, so that the memory of a process does not grow with the text that it has read.

    They stay in the page cache of the system as long as it has room.
    """
    pages = _memory_map_of(ids_N)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
