"""The cache folder: what is kept of texts between runs, and how a file gets there whole or not at all.

texts/      unpacked texts by the SHA-256 of their bytes, and their ids in letter alphabets
sources/    for each DATA that was read: what it was then, and which text it gave
downloads/  what came from the network, and what a person put there

Everything in texts/ and sources/ has a SHA-256 that is compared when it is read: a text has it in its name, a note in
itself. What is damaged is made again from its source.
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

DAY = 86400.0
Report = Callable[[str, int, int | None], None]
"""Told on the way: what is done, how much of it, and of how much in all (None: not known)."""


def silent(what: str, done: int, total: int | None) -> None:
    """A Report that says nothing."""


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


def room(name: str) -> Path:
    """A folder of the cache, made if need be."""
    path = cache_folder() / name
    with writing():
        path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def writing() -> Iterator[None]:
    """What fails inside fails because of the cache folder, and is said so (UserError)."""
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
def new_file(target: Path) -> Iterator[Path]:
    """Where to write a file of the cache, which several processes may write at the same time: readers see all of it or
    nothing. Only what this does itself is an error of the cache folder (UserError); use `writing` inside."""
    with ExitStack() as stack:
        with writing():
            part = stack.enter_context(atomic_write(target, shared=True))
        yield part
        with writing():
            stack.close()


def write_json(target: Path, value: dict[str, Any]) -> None:
    """Writes `value` and its SHA-256 to `target`."""
    with new_file(target) as part, writing(), part.open("w") as file:
        json.dump({"sha256": digest_of(value), "value": value}, file)


def read_json(path: Path, **fields: type) -> dict[str, Any] | None:
    """The object that write_json wrote, with these fields of these types and no others (any, if none are named).

    None where there is nothing, nothing intact, or something else: the cache is then as if it were not there.
    """
    try:
        note = json.loads(path.read_text())
        value = note["value"]
        if not isinstance(value, dict) or note["sha256"] != digest_of(value):
            return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    if fields and (value.keys() != fields.keys() or not all(isinstance(value[f], kind) for f, kind in fields.items())):
        return None
    return value


def digest_of(value: dict[str, Any]) -> str:
    """The SHA-256 of an object, as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
