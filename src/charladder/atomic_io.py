"""Atomic writes: a file is written beside its target, flushed to the disk and renamed."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path, shared: bool = False) -> Iterator[Path]:
    """Yields the path to write to; at the end it is renamed to `path`. It is in a temporary folder, which is removed.

    Temporary files of the library that writes are in that folder too. If the process is killed, the folder stays until
    the same file is written again, or `remove_stale_parts` removes it. shared: several processes may write `path` at
    the same time, each in its own folder, and the last one wins; only `remove_stale_parts` removes a folder that stays.
    """
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part" if shared else f".{path.name}.part")
    remove(folder)
    folder.mkdir()
    part = folder / path.name
    try:
        yield part
        with suppress(PermissionError):  # some file systems have no modes
            part.chmod(
                folder.stat().st_mode & 0o666
            )  # as the umask allows; safetensors makes files readable by the owner only
        move_into_place(part, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_place(part: Path, path: Path) -> None:
    """Flushes a finished file to the disk and renames it to `path`."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
    fsync_folder(path.parent)


def remove_stale_parts(folder: Path, *patterns: str, seconds: float = 0.0) -> None:
    """Removes the temporary files and folders that killed processes left: those that match `patterns` (by default
    all parts) and were not modified for `seconds`. Errors are ignored."""
    for pattern in patterns or ("*.part",):
        for part in folder.glob(pattern):
            with suppress(OSError):
                if not seconds or time.time() - _last_modified(part) > seconds:
                    remove(part)


def _last_modified(path: Path) -> float:
    """The newest modification time of a file, or of a folder and everything in it, in seconds since 1970."""
    return max(one.lstat().st_mtime for one in (path, *path.rglob("*")))


def remove(path: Path) -> None:
    """Removes a file, a link or a folder with its content, if it exists. The target of a link is not removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Flushes the entries of a folder to the disk, so that a rename survives a power failure, if the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # not supported by some file systems
        pass
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file in UTF-8."""
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
