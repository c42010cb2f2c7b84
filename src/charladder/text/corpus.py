"""Corpora: text from a name or a file, as memory-mapped ids.

A plain file with the byte alphabet is mapped where it lies. Everything else (gz, xz, letters, the `python`
corpus) is converted once into the cache folder, under a name made of its content, written beside and renamed.
"""

import gzip
import hashlib
import lzma
import os
import sysconfig
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from charladder.errors import BadInput, nearest
from charladder.text.alphabet import Alphabet, learn_letters

CHUNK = 1 << 20
UNPACK: dict[str, type[gzip.GzipFile] | type[lzma.LZMAFile]] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
NAMED = ("python",)


@dataclass(frozen=True)
class Corpus:
    """A text as ids. `ids_N`: uint8, memory-mapped; `sha256`: of the unpacked bytes; `bytes`: how many they are."""

    name: str
    ids_N: np.ndarray
    alphabet: Alphabet
    sha256: str
    bytes: int


def cache_folder() -> Path:
    """Where converted text is kept: CHARLADDER_CACHE, or the platform's cache folder."""
    chosen = os.environ.get("CHARLADDER_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("charladder"))


def open_corpus(data: str, alphabet: str | Alphabet = "bytes") -> Corpus:
    """Opens `data`, the name of a corpus or a plain, gz or xz file, with an alphabet or the kind of one to learn.

    Raises BadInput for a name or file that is not there, empty, unreadable, or that the alphabet cannot spell.
    """
    if data in NAMED:
        plain, name = python_corpus(), data
    else:
        plain, name = plain_file(Path(data), data), str(Path(data).resolve())
    sha256, size = digest(plain)
    if size == 0:
        raise BadInput(f"{data} is empty; give a file with text in it")
    if alphabet == "bytes" or (isinstance(alphabet, Alphabet) and not alphabet.letters):
        return Corpus(name, np.memmap(plain, np.uint8, "r"), Alphabet(), sha256, size)
    raw = plain.read_bytes()
    letters = alphabet if isinstance(alphabet, Alphabet) else learn_letters(raw, data)
    mark = hashlib.sha256(letters.letters.encode()).hexdigest()[:16]
    target = cache_folder() / f"{sha256}-{mark}.ids"
    if not target.exists():
        write_beside(target, iter([letters.encode(raw, data).tobytes()]))
    return Corpus(name, np.memmap(target, np.uint8, "r"), letters, sha256, size)


def plain_file(path: Path, said: str) -> Path:
    """The unpacked form of `path`: itself, or a copy in the cache named by the packed file's SHA-256."""
    try:
        if path.is_dir():
            raise BadInput(f"{said} is a folder; give one file (plain, .gz or .xz)")
        if not path.exists():
            raise BadInput(f"there is no file or corpus called {said!r}{nearest(said, NAMED)}")
        with path.open("rb") as file:
            file.read(1)
        if path.suffix not in UNPACK:
            return path
        target = cache_folder() / f"{digest(path)[0]}.bytes"
        if not target.exists():
            with UNPACK[path.suffix](path) as packed:
                write_beside(target, iter(lambda: packed.read(CHUNK), b""))
        return target
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{said} cannot be unpacked ({error}); it is cut short or not a {path.suffix} file") from None
    except OSError as error:
        raise BadInput(f"{said} cannot be read: {error.strerror or error}") from None


def python_corpus() -> Path:
    """The standard library's own sources without tests, in path order, as one file in the cache."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    sources = sorted(p for p in root.rglob("*.py") if not skipped & set(p.relative_to(root).parts))
    mark = hashlib.sha256()
    for source in sources:
        status = source.stat()
        mark.update(f"{source.relative_to(root).as_posix()} {status.st_size} {status.st_mtime_ns}\n".encode())
    target = cache_folder() / f"python-{mark.hexdigest()[:32]}.bytes"
    if not target.exists():
        if not sources:
            raise BadInput("this Python has no standard library sources (.py); give a text file as DATA instead")
        write_beside(target, (source.read_bytes() for source in sources))
    return target


def digest(path: Path) -> tuple[str, int]:
    """SHA-256 and length in bytes of a file."""
    with path.open("rb") as file:
        mark = hashlib.file_digest(file, "sha256").hexdigest()
        return mark, file.tell()


def write_beside(target: Path, chunks: Iterator[bytes]) -> None:
    """Writes `chunks` to a file beside `target` and renames it: readers see all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=target.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
