"""Opening of a source, with a check that it does not change while it is read."""

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from typing import IO

from charladder.errors import UserError
from charladder.text.archives import CHUNK_BYTES, DamagedArchive, raise_as_user_error
from charladder.text.sources import Source


class _LimitedReader:
    """A plain file that may be growing, read up to the length that it had when it was opened."""

    def __init__(self, file: IO[bytes], remaining: int) -> None:
        self.file, self.remaining = file, remaining

    def read(self, count: int) -> bytes:
        chunk = self.file.read(min(count, self.remaining))
        self.remaining -= len(chunk)
        return chunk

    def tell(self) -> int:
        return self.file.tell()


@contextlib.contextmanager
def open_source(source: Source, skip: int, plain: bool, notes: list[str]) -> Iterator[tuple[IO[bytes], int | None]]:
    """Yields the file of a source and its size (None for a stream). Raises UserError if it changes before it is closed.

    skip: bytes at its beginning that are not read. A plain file may grow: it is read up to the length that it had when
    it was opened, and a sentence about that is appended to `notes`.
    """
    if source.path is None:
        yield sys.stdin.buffer, None
        return
    with raise_as_user_error(source.name):
        file = source.path.open("rb", buffering=0 if plain else CHUNK_BYTES)
    with file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            yield file, None
            return
        file.seek(skip)
        limited = _LimitedReader(file, before.st_size - skip)
        damage = None
        try:
            yield (limited if plain else file), before.st_size  # type: ignore[misc]
        except DamagedArchive as error:
            damage = error
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            if damage is not None:
                raise damage
            return
        if not plain or limited.remaining or after.st_size <= before.st_size:
            message = f"{source.name} was changed while it was read; run this again when nothing writes to it"
            raise UserError(message) from None
        notes.append(f"{source.name} grew while it was read; its first {before.st_size:,} bytes are used")


def bytes_read(file: IO[bytes]) -> int:
    """The number of bytes read from a file; 0 for a stream."""
    try:
        return file.tell()
    except (OSError, ValueError):
        return 0


def source_size(source: Source) -> int | None:
    status = source.status()
    return status.st_size if stat.S_ISREG(status.st_mode) else None
