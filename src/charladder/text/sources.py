"""Sources: the list of files that a DATA argument names."""

import glob
import hashlib
import os
import stat
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from charladder.errors import UserError, suggest_names
from charladder.text.cache import cache_folder

STDIN = "-"
FINE_NS, COARSE_NS = 50_000_000, 2_000_000_000  # timestamp resolution of most file systems, and of the oldest


@dataclass(frozen=True)
class Source:
    """One file to read. name: for messages. path: None for standard input.

    is_utf8: its text is in UTF-8, whatever the encoding of the other sources. is_listed: it comes from a folder or a
    pattern, and was not named itself.
    """

    name: str
    path: Path | None
    is_utf8: bool = False
    is_listed: bool = False

    @property
    def file_name(self) -> str:
        """The name whose suffix says how it is packed."""
        return self.path.name if self.path else self.name

    def status(self) -> os.stat_result:
        """The status of the file. Raises UserError if it is missing or inaccessible."""
        if self.path is None and sys.stdin is None:
            raise UserError("there is no standard input to read; give a file")
        try:
            return os.fstat(sys.stdin.fileno()) if self.path is None else self.path.stat()
        except OSError as error:
            raise UserError(f"{self.name} cannot be read: {error.strerror}") from None


def is_url(data: str) -> bool:
    return data.lower().startswith(("http://", "https://"))


def make_absolute(data: str) -> str:
    """`data` with the name of a file or a pattern made absolute, so that it is valid in any working directory."""
    if data == STDIN or is_url(data):
        return data
    if is_pattern(data):
        return str(Path(glob.escape(str(Path.cwd()))) / data)
    return str(Path(data).absolute())


def is_pattern(data: str) -> bool:
    return glob.has_magic(data) and not Path(data).exists()


def find_sources(data: str, known: Iterable[str]) -> list[Source]:
    """The files that one DATA argument names: a file, a folder's files, those that match a pattern, or standard input.

    known: the names of corpora, for the message about an unknown name. Raises UserError for data that does not exist.
    """
    if data == STDIN:
        source = Source("standard input", None)
        if stat.S_ISCHR(source.status().st_mode) and not sys.stdin.isatty():
            raise UserError("standard input is a device, which has no text or no end; give a file")
        return [source]
    if not data:
        raise UserError("DATA is an empty name; give a file, or leave it out")
    if "\0" in data:
        raise UserError(f"{data!r} cannot be the name of a file, for it has a zero byte in it")
    path = Path(data)
    try:
        if is_pattern(data):
            matches = glob.glob(data, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute patterns)
            files = sorted(Path(name) for name in matches if Path(name).is_file())
            if not files:
                raise UserError(f"no file matches {data!r}; a pattern wants quotes, so that the shell leaves it alone")
            return [Source(str(file), file, is_listed=True) for file in files]
        if path.is_dir():
            files = list(_walk_files(path))
            if not files:
                raise UserError(f"the folder {data} has no files (hidden ones and run directories are left out)")
            return [Source(str(file), file, is_listed=True) for file in files]
        status = path.stat()
    except FileNotFoundError:
        link = " (it is a link to nothing)" if path.is_symlink() else suggest_names(data, known)
        raise UserError(f"there is no file or corpus called {data!r}{link}") from None
    except OSError as error:
        raise UserError(f"{data} cannot be read: {error.strerror}") from None
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise UserError(f"{data} is a device or a socket, which has no end; give a file")
    return [Source(data, path)]


def _walk_files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, in path order, without hidden files, run directories and linked folders."""

    def refuse(error: OSError) -> None:
        raise error

    cache = cache_folder().resolve()
    for here, folders, files in os.walk(folder, onerror=refuse):
        parent = Path(here)
        if {"config.toml", "environment.json"} <= set(files) or parent.resolve() == cache:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (parent / name for name in sorted(files) if not name.startswith(".") and (parent / name).is_file())


def find_python_sources() -> list[Source]:
    """The standard library's own sources without tests, in path order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    files = sorted(p for p in root.rglob("*.py") if not skipped & set(p.relative_to(root).parts))
    if not files:
        raise UserError("this Python has no standard library sources (.py); give a text file as DATA instead")
    return [Source(str(file), file, is_utf8=True) for file in files]


def fingerprint(sources: list[Source]) -> str | None:
    """A digest of the paths, sizes, times and inodes of the files; None for streams and files that are being written.

    If the newest change is younger than the timestamp resolution, it waits, so that a later change has another time.
    """
    for _ in range(2):
        digest, newest, whole_seconds = hashlib.sha256(), 0, True
        for source in sources:
            status = source.status()
            if source.path is None or not stat.S_ISREG(status.st_mode):
                return None
            times = (status.st_mtime_ns, status.st_ctime_ns)
            newest = max(newest, *times)
            whole_seconds &= all(moment % 1_000_000_000 == 0 for moment in times)
            facts = (str(source.path), status.st_dev, status.st_ino, status.st_size, *times)
            digest.update(repr(facts).encode("utf-8", "surrogateescape") + b"\n")
        wait = newest + (COARSE_NS if whole_seconds else FINE_NS) - time.time_ns()
        if not 0 < wait <= COARSE_NS:
            return digest.hexdigest()
        time.sleep(wait / 1e9)
    return None
