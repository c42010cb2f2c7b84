"""The partial file that an ingestion writes."""

import contextlib
import hashlib
import os
from pathlib import Path

from charladder.text.archives import CHUNK_BYTES
from charladder.text.cache import cache_write_errors

_ZEROS = bytes(CHUNK_BYTES)


class PartialFile:
    """A file that is written from start to end, and its digests. Blocks of zeros become holes where the disk has them.

    size: the bytes of an existing file that are kept and digested first; the rest is cut off. algorithms: of hashlib.
    """

    def __init__(self, path: Path, size: int, algorithms: tuple[str, ...]) -> None:
        self.path, self.size = path, size
        self.hashes = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms}
        self.file = path.open("r+b" if size else "wb")
        remaining = size
        while remaining:
            chunk = self.file.read(min(CHUNK_BYTES, remaining))
            remaining -= len(chunk)
            self._update_hashes(chunk)
        self.file.seek(self.size)
        self.file.truncate()

    def _update_hashes(self, chunk: bytes) -> None:
        for one in self.hashes.values():
            one.update(chunk)

    def write(self, chunk: bytes) -> None:
        self._update_hashes(chunk)
        self.size += len(chunk)
        with cache_write_errors():
            if chunk == _ZEROS:
                self.file.seek(self.size)
            else:
                self.file.write(chunk)

    def close(self) -> None:
        """Flushes the file to the disk and closes it."""
        with cache_write_errors():
            self.file.truncate(self.size)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()

    def discard(self, keep_file: bool = False) -> None:
        """Closes the unfinished file and, unless `keep_file` is set, removes it."""
        with contextlib.suppress(OSError):
            self.file.close()
        if not keep_file:
            self.path.unlink(missing_ok=True)
