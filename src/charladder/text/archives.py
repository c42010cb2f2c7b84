"""Decompression of files and archives to named streams of bytes.

Names in an archive are never used as paths of files. The unpacked size is counted while reading, and not taken from
headers; a file that expands more than text can is refused.
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

CHUNK_BYTES = 1 << 18
MAX_EXPANSION_RATIO = 200  # text compresses 50 times at most, logs included; a zip bomb 1,000 times
EXPANSION_ALLOWANCE_BYTES = 64 << 20


class DamagedArchive(UserError):
    """A file whose content is damaged or not the expected one; another copy may be good."""


class _CompressedReader:
    """A reader of one or more concatenated compressed streams.

    The standard library's readers end without an error at a damaged later stream. Here, the bytes after a stream must
    be another stream. error_type: what a decompressor raises for damage. padding: a byte that may follow a stream.
    """

    def __init__(
        self, file: IO[bytes], new_decompressor: Callable[[], Any], error_type: type[Exception], padding: bytes = b""
    ) -> None:
        self.file, self.new_decompressor, self.error_type, self.padding = file, new_decompressor, error_type, padding
        self.decompressor, self.has_input = new_decompressor(), False

    def read(self, count: int) -> bytes:
        while True:
            fed = b""
            if self.decompressor.eof:
                fed = self.decompressor.unused_data or self.file.read(CHUNK_BYTES)
                while fed and not (fed := fed.lstrip(self.padding) if self.padding else fed):
                    fed = self.file.read(CHUNK_BYTES)
                if not fed:
                    return b""
                self.decompressor = self.new_decompressor()
            elif self.decompressor.needs_input:
                fed = self.file.read(CHUNK_BYTES)
                if not fed and not self.has_input:
                    return b""  # the file is empty
                if not fed:
                    raise EOFError("it ends before its end marker")
                self.has_input = True
            try:
                unpacked = self.decompressor.decompress(fed, count)
            except self.error_type as error:
                raise ValueError(str(error)) from None
            if unpacked:
                return unpacked


def _open_zst(file: IO[bytes]) -> _CompressedReader:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # Python 3.14
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise UserError('reading .zst needs backports.zstd: pip install "charladder[zst]"') from None
    return _CompressedReader(file, zstd.ZstdDecompressor, zstd.ZstdError)


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lambda file: _CompressedReader(file, lzma.LZMADecompressor, lzma.LZMAError, padding=b"\0"),
    ".bz2": lambda file: _CompressedReader(file, bz2.BZ2Decompressor, OSError),
    ".zst": _open_zst,
}
_TAR_SUFFIXES = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".tzst": ".tar.zst"}


def is_archive(name: str) -> bool:
    """Whether a file of this name is a compressed file or an archive."""
    return any(name.lower().endswith(suffix) for suffix in (*_DECOMPRESSORS, *_TAR_SUFFIXES, ".tar", ".zip"))


def unpack(file: IO[bytes], name: str, size: int | None, file_name: str = "") -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yields (name, chunks of bytes) for each file in `file`. The suffix of `file_name` says how it is packed.

    name: for messages, and the default of `file_name`. size: in bytes, if known. A plain file yields itself; a zip or
    tar yields its regular files in their order, without links and devices. Raises UserError for a file that is damaged,
    encrypted or truncated, that has a member outside its folder (`../`), or that expands too much.
    """
    lower = (file_name or name).lower()
    for short, long in _TAR_SUFFIXES.items():
        lower = lower.removesuffix(short) + long if lower.endswith(short) else lower
    with raise_as_user_error(name):
        if lower.endswith(".zip"):
            yield from _read_zip(file, name, size)
            return
        packer = next((packer for suffix, packer in _DECOMPRESSORS.items() if lower.endswith(suffix)), None)
        stream, inner = (packer(file), lower.rsplit(".", 1)[0]) if packer else (file, lower)
        if inner.endswith(".tar"):
            yield from _read_tar(stream, name, size)
        else:
            yield name, _read_limited(stream, name, size) if packer else read_chunks(stream, name)


def read_chunks(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Yields a stream in chunks. Raises UserError with its name if it cannot be read."""
    with raise_as_user_error(name):
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _read_limited(stream: IO[bytes], name: str, size: int | None, counter: list[int] | None = None) -> Iterator[bytes]:
    """Yields an unpacked stream in chunks. Raises UserError once it is much larger than the packed `size`.

    counter: a list with the number of bytes unpacked from the same archive so far; updated.
    """
    out = [0] if counter is None else counter
    for chunk in read_chunks(stream, name):
        out[0] += len(chunk)
        _check_expansion(name, out[0], size)
        yield chunk


def _check_expansion(name: str, unpacked: int, size: int | None) -> None:
    if size is not None and unpacked > MAX_EXPANSION_RATIO * size + EXPANSION_ALLOWANCE_BYTES:
        raise UserError(
            f"{name} unpacks to more than {MAX_EXPANSION_RATIO} times its size, as a bomb does, and is refused; "
            "if it is yours, unpack it by hand and give what comes out"
        )


def _check_member_path(archive: str, member: str) -> None:
    parts = PurePosixPath(member.replace("\\", "/")).parts
    if ".." in parts or (parts and parts[0] == "/") or re.match("[A-Za-z]:", member):
        raise UserError(f"{archive} holds {member!r}, a path that leaves the archive, and is refused; pack it without")


def _read_zip(file: IO[bytes], name: str, size: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    if not file.seekable():
        raise UserError(f"{name} is a zip that comes as a stream, and a zip is read from its end; save it as a file")
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if _is_regular(member)]
        for member in members:
            _check_member_path(name, member.filename)
        out = [0]
        for member in members:
            if member.flag_bits & 1:
                raise UserError(f"{name} is encrypted ({member.filename!r}); unpack it by hand and give what comes out")
            with archive.open(member) as stream:
                yield f"{name}/{member.filename}", _read_limited(stream, name, size, out)


def _is_regular(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a regular file. Archives made on Unix store its mode; others do not."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    return not member.is_dir() and kind in (0, stat.S_IFREG)


def _read_tar(stream: IO[bytes], name: str, size: int | None) -> Iterator[tuple[str, Iterator[bytes]]]:
    whole, out = _LimitedReader(stream, name, size), [0]
    with tarfile.open(fileobj=whole, mode="r|", tarinfo=_TarHeader) as archive:  # type: ignore[call-overload]
        for member in archive:
            _check_member_path(name, member.name)
            if member.isfile() and (inside := archive.extractfile(member)) is not None:
                yield f"{name}/{member.name}", _read_limited(inside, name, size, out)
    # Read to the end, so that the checksums of the compressed stream are compared.
    while rest := whole.read(CHUNK_BYTES):
        if rest.strip(b"\0"):
            raise DamagedArchive(_damage_message(name, ValueError("there is more after its end")))


class _TarHeader(tarfile.TarInfo):
    """A header of a tar. A damaged or truncated one raises an error here; tarfile would end without one."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_TarHeader":
        try:
            return super().fromtarfile(tarfile)
        except (EmptyHeaderError, InvalidHeaderError, TruncatedHeaderError) as error:
            raise ValueError(f"a header is broken or missing: {error}") from None


class _LimitedReader:
    """The file interface that tarfile's streaming mode needs, without seeking, and with a limit on the bytes read."""

    def __init__(self, file: IO[bytes], name: str, size: int | None) -> None:
        self.file, self.name, self.size, self.bytes_read = file, name, size, 0

    def read(self, count: int) -> bytes:
        chunk = self.file.read(count)
        self.bytes_read += len(chunk)
        _check_expansion(self.name, self.bytes_read, self.size)
        return chunk


@contextmanager
def raise_as_user_error(name: str) -> Iterator[None]:
    """Converts the errors that the standard library raises for a damaged or unreadable file to UserError."""
    try:
        yield
    except (EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile) as error:
        raise DamagedArchive(_damage_message(name, error)) from None
    except (NotImplementedError, RuntimeError, ValueError, UnicodeError, OverflowError) as error:
        raise DamagedArchive(_damage_message(name, error)) from None
    except OSError as error:
        if error.errno is not None:  # the file itself cannot be read
            raise UserError(f"{name} cannot be read: {error.strerror}") from None
        raise DamagedArchive(_damage_message(name, error)) from None


def _damage_message(name: str, error: Exception) -> str:
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return f"{name} cannot be unpacked ({why}); it is cut short, damaged, or not what its name says"
