"""Unpacking: a file, whatever it is packed in, as named streams of bytes.

Nothing is ever written to the disk under a name from an archive. How much comes out is counted as it comes, whatever
the headers promise; far more than text can give is refused.
"""

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from tarfile import EmptyHeaderError, InvalidHeaderError, TruncatedHeaderError  # type: ignore[attr-defined]
from typing import IO, Any

from charladder.errors import UserError

CHUNK = 1 << 18
BOMB_RATIO = 200  # text, logs included, packs to a fiftieth at the very best; a bomb to a thousandth
BOMB_FLOOR = 64 << 20


class DamagedArchive(UserError):
    """A file that is not what it should be; another copy of it may be."""


class CompressedReader:
    """Unpacks one or more packed streams on end. The standard library's own files end without a word where a later
    stream is damaged; here whatever follows a stream must be another one.

    new: makes a decompressor. broken: what it raises for damage. padding: what may stand between streams and after.
    """

    def __init__(self, file: IO[bytes], new: Callable[[], Any], broken: type[Exception], padding: bytes = b"") -> None:
        self.file, self.new, self.broken, self.padding = file, new, broken, padding
        self.decoder, self.begun = new(), False

    def read(self, count: int) -> bytes:
        while True:
            fed = b""
            if self.decoder.eof:
                fed = self.decoder.unused_data or self.file.read(CHUNK)
                while fed and not (fed := fed.lstrip(self.padding) if self.padding else fed):
                    fed = self.file.read(CHUNK)
                if not fed:
                    return b""
                self.decoder = self.new()
            elif self.decoder.needs_input:
                fed = self.file.read(CHUNK)
                if not fed and not self.begun:
                    return b""  # an empty file
                if not fed:
                    raise EOFError("it ends before its end is marked")
                self.begun = True
            try:
                unpacked = self.decoder.decompress(fed, count)
            except self.broken as error:
                raise ValueError(str(error)) from None
            if unpacked:
                return unpacked


def open_zst(file: IO[bytes]) -> CompressedReader:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise UserError('reading .zst needs backports.zstd: pip install "charladder[zst]"') from None
    return CompressedReader(file, zstd.ZstdDecompressor, zstd.ZstdError)


PACKERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lambda file: CompressedReader(file, lzma.LZMADecompressor, lzma.LZMAError, padding=b"\0"),
    ".bz2": lambda file: CompressedReader(file, bz2.BZ2Decompressor, OSError),
    ".zst": open_zst,
}
SHORT = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".tzst": ".tar.zst"}


def archive_kind(name: str) -> bool:
    """Whether a file of this name is unpacked, and not read as it lies."""
    return any(name.lower().endswith(suffix) for suffix in (*PACKERS, *SHORT, ".tar", ".zip"))


def unpack(file: IO[bytes], name: str, size: int | None, form: str = "") -> Iterator[tuple[str, Iterator[bytes]]]:
    """The (name, chunks of bytes) that `file` holds, by the ending of `form` (`name`, unless given).

    `size` is its size in bytes, if known.

    A plain file gives itself. Of a zip or tar, every regular file in its order; links and devices are left out.
    Raises UserError for what is damaged, encrypted, cut short, leaves its archive (`../`), or unpacks to a bomb.
    """
    lower = (form or name).lower()
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
            yield name, guarded(stream, name, size) if packer else chunks(stream, name)


def chunks(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """All of a stream. Raises UserError that names it where it cannot be read."""
    with damage_said(name):
        while chunk := stream.read(CHUNK):
            yield chunk


def guarded(stream: IO[bytes], name: str, size: int | None, before: list[int] | None = None) -> Iterator[bytes]:
    """The chunks of an unpacking stream, refused once they are more than a bomb's share of `size`.

    `before`: one number, what came out of the same archive already; added to.
    """
    out = [0] if before is None else before
    for chunk in chunks(stream, name):
        out[0] += len(chunk)
        check_size(name, out[0], size)
        yield chunk


def check_size(name: str, out: int, size: int | None) -> None:
    if size is not None and out > BOMB_RATIO * size + BOMB_FLOOR:
        raise UserError(
            f"{name} unpacks to more than {BOMB_RATIO} times its size, as a bomb does, and is refused; "
            "if it is yours, unpack it by hand and give what comes out"
        )


def check_name(archive: str, member: str) -> None:
    parts = PurePosixPath(member.replace("\\", "/")).parts
    if ".." in parts or (parts and parts[0] == "/") or re.match("[A-Za-z]:", member):
        raise UserError(f"{archive} holds {member!r}, a path that leaves the archive, and is refused; pack it without")


def zip_members(file: IO[bytes], name: str, size: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    if not file.seekable():
        raise UserError(f"{name} is a zip that comes as a stream, and a zip is read from its end; save it as a file")
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if is_regular(member)]
        for member in members:
            check_name(name, member.filename)
        out = [0]
        for member in members:
            if member.flag_bits & 1:
                raise UserError(f"{name} is encrypted ({member.filename!r}); unpack it by hand and give what comes out")
            with archive.open(member) as stream:
                yield f"{name}/{member.filename}", guarded(stream, name, size, out)


def is_regular(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a regular file. Archives made under Unix have its mode; others have none."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    return not member.is_dir() and kind in (0, stat.S_IFREG)


def tar_members(stream: IO[bytes], name: str, size: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    whole, out = CountingReader(stream, name, size), [0]
    with tarfile.open(fileobj=whole, mode="r|", tarinfo=Member) as archive:  # type: ignore[call-overload]
        for member in archive:
            check_name(name, member.name)
            if member.isfile() and (inside := archive.extractfile(member)) is not None:
                yield f"{name}/{member.name}", guarded(inside, name, size, out)
    # To the very end: only so are the checksums looked at of what the tar is packed in.
    while rest := whole.read(CHUNK):
        if rest.strip(b"\0"):
            raise DamagedArchive(error_text(name, ValueError("there is more after its end")))


class Member(tarfile.TarInfo):
    """A header of a tar. One that is damaged or cut ends the archive without a word in tarfile; here it is an error."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "Member":
        try:
            return super().fromtarfile(tarfile)
        except (EmptyHeaderError, InvalidHeaderError, TruncatedHeaderError) as error:
            raise ValueError(f"a header is broken or missing: {error}") from None


class CountingReader:
    """Only what tarfile's streaming mode needs of a file, so that it never seeks; what is read is counted."""

    def __init__(self, file: IO[bytes], name: str, size: int | None) -> None:
        self.file, self.name, self.size, self.out = file, name, size, 0

    def read(self, count: int) -> bytes:
        chunk = self.file.read(count)
        self.out += len(chunk)
        check_size(self.name, self.out, self.size)
        return chunk


@contextmanager
def damage_said(name: str) -> Iterator[None]:
    """Whatever the unpackers of the standard library raise about damage, as one sentence."""
    try:
        yield
    except (EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile) as error:
        raise DamagedArchive(error_text(name, error)) from None
    except (NotImplementedError, RuntimeError, ValueError, UnicodeError, OverflowError) as error:
        raise DamagedArchive(error_text(name, error)) from None
    except OSError as error:
        if error.errno is not None:  # the file itself cannot be read
            raise UserError(f"{name} cannot be read: {error.strerror}") from None
        raise DamagedArchive(error_text(name, error)) from None


def error_text(name: str, error: Exception) -> str:
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"{name} cannot be unpacked ({why}); it is cut short, damaged, or not what its name says"
