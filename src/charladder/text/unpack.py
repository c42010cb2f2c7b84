"""Unpacking: a file, whatever it is packed in, as named streams of bytes.

Nothing is ever written to the disk under a name from an archive. How much comes out is counted as it comes, whatever
the headers promise; far more than text can give is refused.
"""

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

from charladder.errors import BadInput

CHUNK = 1 << 18
BOMB_RATIO = 200  # text, logs included, packs to a fiftieth at the very best; a bomb to a thousandth
BOMB_FLOOR = 64 << 20


class Damaged(BadInput):
    """A file that is not what it should be; another copy of it may be."""


def open_zst(file: IO[bytes]) -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        try:
            from backports import zstd  # type: ignore[import-not-found]
        except ImportError:
            raise BadInput('reading .zst needs backports.zstd: pip install "charladder[zst]"') from None
    return zstd.ZstdFile(file)


PACKERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
    ".zst": open_zst,
}
SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".tzst": ".tar.zst"}


def packed(name: str) -> bool:
    """Whether a file of this name is unpacked, and not read as it lies."""
    return any(name.lower().endswith(suffix) for suffix in (*PACKERS, *SHORT, ".tar", ".zip"))


def unpack(file: IO[bytes], name: str, size: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The (name, chunks of bytes) that `file` holds, by the ending of `name`; `size` is its size in bytes, if known.

    A plain file gives itself. Of a zip or tar, every regular file in its order; links and devices are left out.
    Raises BadInput for what is damaged, encrypted, cut short, leaves its archive (`../`), or unpacks to a bomb.
    """
    lower = name.lower()
    for short, long in SHORT.items():
        lower = lower.removesuffix(short) + long if lower.endswith(short) else lower
    with damage_said(name):
        if lower.endswith(".zip"):
            yield from zip_members(file, name, size)
            return
        packer = next((packer for suffix, packer in PACKERS.items() if lower.endswith(suffix)), None)
        stream, inner = (packer(file), lower.rsplit(".", 1)[0]) if packer else (file, lower)
        if inner.endswith(".tar"):
            yield from tar_members(stream, name, size)
        else:
            yield name, guarded(stream, name, size) if packer else chunks(stream)


def chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


def guarded(stream: IO[bytes], name: str, size: int | None, before: list[int] | None = None) -> Iterator[bytes]:
    """The chunks of an unpacking stream, refused once they are more than a bomb's share of `size`.

    `before`: one number, what came out of the same archive already; added to.
    """
    out = [0] if before is None else before
    with damage_said(name):
        for chunk in chunks(stream):
            out[0] += len(chunk)
            if size is not None and out[0] > BOMB_RATIO * size + BOMB_FLOOR:
                raise BadInput(
                    f"{name} unpacks to more than {BOMB_RATIO} times its size, as a bomb does, and is refused; "
                    "if it is yours, unpack it by hand and give what comes out"
                )
            yield chunk


def check_name(archive: str, member: str) -> None:
    parts = PurePosixPath(member.replace("\\", "/")).parts
    if ".." in parts or (parts and (parts[0] == "/" or parts[0].endswith(":"))):
        raise BadInput(f"{archive} holds {member!r}, a path that leaves the archive, and is refused; pack it without")


def zip_members(file: IO[bytes], name: str, size: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    if not file.seekable():
        raise BadInput(f"{name} is a zip that comes as a stream, and a zip is read from its end; save it as a file")
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for member in members:
            check_name(name, member.filename)
        out = [0]
        for member in members:
            if member.flag_bits & 1:
                raise BadInput(f"{name} is encrypted ({member.filename!r}); unpack it by hand and give what comes out")
            with archive.open(member) as stream:
                yield f"{name}/{member.filename}", guarded(stream, name, size, out)


def tar_members(stream: IO[bytes], name: str, size: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    out = [0]
    with tarfile.open(fileobj=Stream(stream), mode="r|") as archive:  # type: ignore[call-overload]
        for member in archive:
            check_name(name, member.name)
            if member.isfile() and (inside := archive.extractfile(member)) is not None:
                yield f"{name}/{member.name}", guarded(inside, name, size, out)


class Stream:
    """Only what tarfile's streaming mode needs of a file, so that it reads to the end and never seeks."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, count: int) -> bytes:
        return self.file.read(count)


@contextmanager
def damage_said(name: str) -> Iterator[None]:
    """Whatever the unpackers of the standard library raise about damage, as one sentence."""
    try:
        yield
    except (EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile) as error:
        raise Damaged(said(name, error)) from None
    except (NotImplementedError, RuntimeError, ValueError, UnicodeError, OverflowError) as error:
        raise Damaged(said(name, error)) from None
    except OSError as error:
        if error.errno is not None:  # the file itself cannot be read
            raise BadInput(f"{name} cannot be read: {error.strerror}") from None
        raise Damaged(said(name, error)) from None
    except Exception as error:
        if type(error).__name__ != "ZstdError":
            raise
        raise Damaged(said(name, error)) from None


def said(name: str, error: Exception) -> str:
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"{name} cannot be unpacked ({why}); it is cut short, damaged, or not what its name says"
