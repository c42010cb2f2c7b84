"""Verification of cached files by their SHA-256.

A process computes the SHA-256 of a file when it first opens it; later it compares only size, times and inode. Each
process verifies a file again, because a flipped bit on the disk changes none of these.
"""

import hashlib
import os
from pathlib import Path

from charladder.text.cache import ProgressCallback, no_progress

CHUNK_BYTES = 1 << 20
_FileState = tuple[int, int, int, int, int]

_verified: dict[Path, tuple[str, _FileState]] = {}


def is_intact(path: Path, sha256: str, on_progress: ProgressCallback = no_progress) -> bool:
    """Whether the file can be read and has this SHA-256."""
    try:
        with path.open("rb", buffering=0) as file:
            before = _state(os.fstat(file.fileno()))
            if _verified.get(path) == (sha256, before):
                return True
            digest, done = hashlib.sha256(), 0
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                on_progress("verifying", done, before[2])
            after = _state(os.fstat(file.fileno()))
    except OSError:
        return False
    if digest.hexdigest() != sha256 or before != after:
        return False
    _verified[path] = sha256, after
    return True


def mark_verified(path: Path, sha256: str) -> None:
    """Records that this process has just written a file of this SHA-256, so that `is_intact` does not read it again."""
    _verified[path] = sha256, _state(path.stat())


def _state(status: os.stat_result) -> _FileState:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
