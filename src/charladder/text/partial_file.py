"""A file of the cache while it is written."""

import contextlib
import hashlib
import os
from pathlib import Path

from charladder.text.archives import CHUNK
from charladder.text.cache import writing

ZEROS = bytes(CHUNK)


class PartialFile:
    """The file that a gathering writes, and its digests. Blocks of zeros become holes where the disk has them."""

    def __init__(self, path: Path, keep: int, kinds: tuple[str, ...]) -> None:
        self.path, self.size = path, keep
        self.marks = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}
        self.file = path.open("r+b" if keep else "wb")
        while keep:
            chunk = self.file.read(min(CHUNK, keep))
            keep -= len(chunk)
            for mark in self.marks.values():
                mark.update(chunk)
        self.file.seek(self.size)
        self.file.truncate()

    def write(self, chunk: bytes) -> None:
        for mark in self.marks.values():
            mark.update(chunk)
        self.size += len(chunk)
        with writing():
            if chunk == ZEROS:
                self.file.seek(self.size)
            else:
                self.file.write(chunk)

    def close(self) -> None:
        """Ends the file; all of it is on the disk after this."""
        with writing():
            self.file.truncate(self.size)
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()

    def drop(self, keep: bool = False) -> None:
        """Lets go of a file that is not whole; `keep` leaves it where it is."""
        with contextlib.suppress(OSError):
            self.file.close()
        if not keep:
            self.path.unlink(missing_ok=True)
