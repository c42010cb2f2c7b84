"""Locks of the cache: a process that opens texts, and every text that it has mapped, are marked as in use.

They are advisory locks of a Unix (flock), which the system gives up when a process ends, however it ends. A memory map
keeps the lock of the file that it was made from for as long as it exists. Where there are no such locks, or the cache
cannot be written, nothing is marked.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from charladder.errors import UserError
from charladder.text.cache import cache_folder

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

LOCK_NAME = "pruning.lock"


@contextlib.contextmanager
def shared_cache_lock() -> Iterator[None]:
    """Inside, this process reads and writes the cache, and no other process prunes it. It waits for one that does."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            folder = cache_folder()
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / LOCK_NAME
            handle = os.open(path, os.O_RDONLY if path.exists() else os.O_RDONLY | os.O_CREAT, 0o644)
            stack.callback(os.close, handle)
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def exclusive_cache_lock() -> Iterator[None]:
    """Inside, no other process opens texts. Raises UserError where one does, and where the system has no such locks."""
    if fcntl is None:
        raise UserError("the cache cannot be pruned here, for this system has no flock; remove its folder by hand")
    path = cache_folder() / LOCK_NAME
    handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another process is reading a text into the cache; prune it when that is done") from None
        yield
    finally:
        os.close(handle)


def mark_in_use(file: IO[bytes]) -> None:
    """Marks a file as in use for as long as it, or a memory map that is made from it, is open."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)


def is_in_use(path: Path) -> bool:
    """Whether any process has marked a file as in use. True where that cannot be known."""
    if fcntl is None:
        return True
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
