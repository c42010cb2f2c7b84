"""Files that are whole or not there: they are written beside their place, flushed to the disk and renamed."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(path: Path, shared: bool = False) -> Iterator[Path]:
    """Where to write the file that becomes `path` at the end: in a folder of its own, which is removed in any case.

    Temporary files of the library that writes are in that folder too. If the process is killed, the folder is left
    over until the same file is written again, or `sweep` removes it. shared: several processes may write `path` at the
    same time, and the last one wins; the folder of each has another name, and only `sweep` removes one that is left.
    """
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part" if shared else f".{path.name}.part")
    remove(folder)
    folder.mkdir()
    part = folder / path.name
    try:
        yield part
        with suppress(PermissionError):  # of a file system that has no modes
            part.chmod(folder.stat().st_mode & 0o666)  # what the umask allows; safetensors writes for the owner alone
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
    """Removes what killed processes have left in a folder: files and folders of these patterns (by default all parts)
    that were not written to for so many seconds. What cannot be removed stays."""
    for pattern in patterns or ("*.part",):
        for left in folder.glob(pattern):
            with suppress(OSError):
                if not seconds or time.time() - _last_modified(left) > seconds:
                    remove(left)


def _last_modified(path: Path) -> float:
    """When a file, or a folder or anything in it, was written to last, in seconds since 1970."""
    return max(one.lstat().st_mtime for one in (path, *path.rglob("*")))


def remove(path: Path) -> None:
    """Removes a file or a folder with all it holds, if it is there. A link is removed, and not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Flushes the names in a folder to the disk, so that a rename survives a loss of power, where that can be done."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems have no such thing
        pass
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a small text file in UTF-8."""
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
