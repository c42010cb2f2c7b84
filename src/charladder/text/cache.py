"""The cache folder, and atomic writing of its files.

texts/      unpacked texts, named by the SHA-256 of their bytes, and their ids in letter alphabets
sources/    one record for each DATA that was read: its files, and the text that they gave
downloads/  files that were downloaded, or that the user put there

Files in texts/ and sources/ have a SHA-256, in the name of a text and inside a record, which is verified when they are
read. A damaged file is created again from its source.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from charladder.atomic_io import atomic_write
from charladder.errors import UserError

SECONDS_PER_DAY = 86400.0
ProgressCallback = Callable[[str, int, int | None], None]
"""Called with the name of a stage, the bytes done, and the total number of bytes (None: not known)."""


def no_progress(stage: str, done: int, total: int | None) -> None:
    """A ProgressCallback that does nothing."""


def cache_folder() -> Path:
    """CHARLADDER_CACHE, or the platform's cache folder. Raises UserError for a user without a home folder."""
    chosen = os.environ.get("CHARLADDER_CACHE")
    if chosen:
        return Path(chosen).absolute()
    with suppress(RuntimeError):
        folder = Path(platformdirs.user_cache_dir("charladder"))
        if folder.is_absolute():
            return folder
    raise UserError("this user has no home folder to keep the cache in; set CHARLADDER_CACHE to a folder")


def cache_subfolder(name: str) -> Path:
    """A folder of the cache, created if it does not exist."""
    path = cache_folder() / name
    with cache_write_errors():
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def cache_write_errors() -> Iterator[None]:
    """Converts an OSError to a UserError which says that the cache folder cannot be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "there is no room left for it" if full else error.strerror or str(error)
        raise UserError(
            f"the cache folder {cache_folder()} cannot be written: {what}; "
            f"{'free some, or ' if full else ''}set CHARLADDER_CACHE to a folder that {'has it' if full else 'can be'}"
        ) from None


@contextmanager
def atomic_cache_file(target: Path) -> Iterator[Path]:
    """Yields the path to write to; at the end it is renamed to `target`, so that readers never see a partial file.

    Several processes may write the same target. Only the creation and the renaming are converted to UserError: use
    `cache_write_errors` for the writing inside.
    """
    with ExitStack() as stack:
        with cache_write_errors():
            part = stack.enter_context(atomic_write(target, shared=True))
        yield part
        with cache_write_errors():
            stack.close()


def write_record(target: Path, value: dict[str, Any]) -> None:
    """Writes `value` and its SHA-256 to `target`, as JSON."""
    with atomic_cache_file(target) as part, cache_write_errors(), part.open("w") as file:
        json.dump({"sha256": _digest(value), "value": value}, file)


def read_record(path: Path, **fields: type) -> dict[str, Any] | None:
    """Reads what `write_record` wrote: an object with exactly these fields of these types (any, if none are given).

    Returns None for a file that is missing, damaged or different, so that the caller treats it as missing.
    """
    try:
        record = json.loads(path.read_text())
        value = record["value"]
        if not isinstance(value, dict) or record["sha256"] != _digest(value):
            return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    if fields and (value.keys() != fields.keys() or not all(isinstance(value[f], kind) for f, kind in fields.items())):
        return None
    return value


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
