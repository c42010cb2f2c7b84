"""Atomic writes: a file is written beside its target, flushed to the disk and renamed."""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None


class FileAppeared(FileExistsError):
    """A file appeared at the path of a new one, and stays. The message names both."""


@contextmanager
def atomic_write(path: Path, shared: bool = False, overwrite: bool = True) -> Iterator[Path]:
    """Yields the path to write to; at the end it is renamed to `path`. It is in a temporary folder, which is removed.

    Temporary files of the library that writes are in that folder too. If the process is killed, the folder stays until
    the same file is written again, or `remove_stale_parts` removes it. shared: several processes may write `path` at
    the same time, each in its own folder, and the last one wins; only `remove_stale_parts` removes a folder that stays.
    Without it, raises OSError if another process writes `path`. overwrite: if False, a file that has appeared at `path`
    stays, the new one gets the next free name, such as rows-2.jsonl, and FileAppeared is raised.
    """
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part" if shared else f".{path.name}.part")
    with _new_folder(folder, path):
        part = folder / path.name
        yield part
        with suppress(PermissionError):  # some file systems have no modes
            part.chmod(
                folder.stat().st_mode & 0o666
            )  # as the umask allows; safetensors makes files readable by the owner only
        if overwrite:
            move_into_place(part, path)
        else:
            _move_to_free_name(part, path)


@contextmanager
def _new_folder(folder: Path, path: Path) -> Iterator[None]:
    """Makes the temporary folder for `path`, in place of that of a killed process, and removes it at the end.

    It has an advisory lock (flock), which ends with the process. Raises OSError if another process has locked it.
    """
    if folder.is_dir() and not folder.is_symlink():
        _close(_lock(folder, path))
    remove(folder)
    folder.mkdir()
    handle = _lock(folder, path)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(handle)


def _lock(folder: Path, path: Path) -> int | None:
    """Locks a folder until its handle is closed; None on a system without flock."""
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise BlockingIOError(errno.EAGAIN, "another process is writing this file", str(path)) from None
    except OSError:  # not supported by some file systems
        pass
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def move_into_place(part: Path, path: Path) -> None:
    """Flushes a finished file to the disk and renames it to `path`."""
    _flush(part)
    part.replace(path)
    fsync_folder(path.parent)


def _move_to_free_name(part: Path, path: Path) -> None:
    """As `move_into_place`, for a `path` that is not overwritten; see `atomic_write`."""
    _flush(part)
    number, free = 1, path
    while not _rename_if_free(part, free):
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    fsync_folder(path.parent)
    if free != path:
        raise FileAppeared(
            f"{path} was made by another process meanwhile and is not overwritten; the new file is {free}"
        )


def _rename_if_free(part: Path, path: Path) -> bool:
    """Renames a file to `path` if there is none; returns whether there was none."""
    try:
        os.link(part, path)  # fails for a path that exists, where a rename would replace it
    except FileExistsError:
        return False
    except OSError:  # some file systems have no links
        if os.path.lexists(path):
            return False
        part.replace(path)
    return True


def _flush(part: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())


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
