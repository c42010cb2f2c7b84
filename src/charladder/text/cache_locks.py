"""Locks of the cache: they mark that a process opens texts, and which texts are mapped.

They are advisory locks (flock), which the system releases when a process ends for any reason. A memory map holds the
lock of its file as long as it exists. On a system without flock, or if the cache cannot be written, nothing is locked.
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
    """Held while this process reads and writes the cache; no other process can prune it. Waits for one that prunes."""
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
    """Held while this process prunes; no other can open texts. Raises UserError if one does, and without flock."""
    if fcntl is None:
        raise UserError("the cache cannot be pruned here, because this system has no flock; remove its folder by hand")
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
    """Marks a file as in use as long as it, or a memory map of it, is open."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)


def is_in_use(path: Path) -> bool:
    """Whether a process has marked a file as in use. True if that cannot be determined."""
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
