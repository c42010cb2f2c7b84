"""Memory-mapped texts."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from charladder.errors import UserError
from charladder.text.cache_locks import mark_in_use


class MappedIds(np.memmap):
    """A memory-mapped file of ids, which must not become shorter while it is in use.

    Reading a page that the file does not have any more ends the process with SIGBUS. So the size of the file is
    compared before each indexing. The process still ends if the file is cut while one batch is being copied.
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
    """The ids in a file of the cache, which is marked as in use for as long as they are."""
    with path.open("rb") as file:
        mark_in_use(file)
        ids_N: Any = MappedIds(file, dtype, "r")  # Any: NumPy's types say that a subclass makes a plain memmap
        return ids_N


def _memory_map_of(ids_N: np.ndarray) -> mmap.mmap | None:
    """The memory map that an array lies in, if any."""
    pages = getattr(ids_N, "_mmap", None)
    return pages if isinstance(pages, mmap.mmap) else None


def is_truncated(ids_N: np.ndarray) -> bool:
    """Whether the file of a memory-mapped array is shorter than it was when it was opened."""
    pages = _memory_map_of(ids_N)
    return pages is not None and pages.size() < len(pages)


def release_pages(ids_N: np.ndarray) -> None:
    """Lets go of the pages of a memory map that were read, so that a long run holds no more of a text than a short one.

    They stay in the system's cache as long as it has room.
    """
    pages = _memory_map_of(ids_N)
    if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
