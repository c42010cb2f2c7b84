"""The compressed file: magic, format version, header, side stream, chunks.

The header is JSON, deflated with a preset dictionary, so that it is short. All numbers are little-endian. Header, side
stream and each chunk have a CRC-32, so a damaged file is refused before it is decoded.
"""

import json
import os
import re
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import IO

import numpy as np

from charladder.compression.segments import MAX_SEGMENTS
from charladder.errors import UserError
from charladder.model.config import MAX_SIZE

MAGIC, VERSION = b"CLZ", 1
_HEADER, _PART = struct.Struct("<HI"), struct.Struct("<II")  # size of what follows, and its CRC-32
_MAX_HEADER_BYTES, _MAX_COUNT, _MAX_PATH_LENGTH = 4096, 1 << 60, 200
_DIGEST = re.compile("[0-9a-f]{12}")
_DICTIONARY = (
    b'GenuineIntel AuthenticAMD Intel(R) Xeon(R) CPU @ GHz AMD EPYC -Core Processor "torch" CUDA default avx512 '
    b'{"mode":"online","bytes":10000,"symbols":10000,"sha256":"0123456789ab","alphabet":"bytes","segments":1,'
    b'"context":256,"side_bytes":0,"network":"0123456789ab","path":{"charladder":"0.2.0","torch":"2.9.0+cpu",'
    b'"numpy":"2.3.0","constriction":"0.5.0","runner":"BatchedRunner","runner":"PackedRunner","kernels":"C 01234567",'
    b'"vectors":"AVX512","vectors":"AVX2","processor":"AMD EPYC 7 32-Core Processor","threads":1}}'
)
_TYPES = {
    **dict.fromkeys(("mode", "sha256", "alphabet", "network"), str),
    **dict.fromkeys(("bytes", "symbols", "segments", "context", "side_bytes"), int),
    "path": dict,
}


@dataclass(frozen=True)
class Header:
    """What a decoder must know.

    mode: `network`, or `online` for a network that learns while it codes. bytes, sha256: of the original, the checksum
    cut to 12 digits. symbols: their number, in `segments` segments. alphabet: `bytes`, or the first digits of the
    SHA-256 of its letters. context: of the network. side_bytes: the size of the side stream. network: the first digits
    of the SHA-256 of its file; empty for `online`. path: what the results of the network depend on to the last bit.
    """

    mode: str
    bytes: int
    symbols: int
    sha256: str
    alphabet: str
    segments: int
    context: int
    side_bytes: int
    network: str
    path: dict[str, str | int]


def write_header(file: IO[bytes], header: Header) -> None:
    deflater = zlib.compressobj(9, wbits=-15, zdict=_DICTIONARY)
    data = deflater.compress(json.dumps(asdict(header), separators=(",", ":")).encode()) + deflater.flush()
    file.write(MAGIC + bytes([VERSION]) + _HEADER.pack(len(data), zlib.crc32(data)) + data)


def read_header(file: IO[bytes], name: str) -> Header:
    """Raises UserError for what is not a compressed file, is of another format version, or is damaged."""
    start = file.read(len(MAGIC) + 1)
    if start[: len(MAGIC)] != MAGIC:
        raise UserError(f"{name} was not written by charladder compress")
    if start[len(MAGIC) :] != bytes([VERSION]):
        raise UserError(f"{name} has another format version than {VERSION}, the one that this version reads")
    size, checksum = _HEADER.unpack(_read(file, _HEADER.size, name))
    data = _read(file, min(size, _MAX_HEADER_BYTES), name)
    if zlib.crc32(data) != checksum:
        raise _damaged(name)
    try:
        header = Header(**json.loads(zlib.decompressobj(-15, _DICTIONARY).decompress(data, 1 << 16)))
    except (zlib.error, ValueError, TypeError, RecursionError):
        raise _damaged(name) from None
    if not _is_valid(header):
        raise _damaged(name)
    return header


def _is_valid(header: Header) -> bool:
    """Whether types and ranges are those of a header."""
    values = asdict(header)
    if any(type(values[name]) is not kind for name, kind in _TYPES.items()):
        return False
    counts, is_of_bytes = (header.bytes, header.symbols, header.side_bytes), header.alphabet == "bytes"
    return (
        (_is_digest(header.network) if header.mode == "network" else (header.mode, header.network) == ("online", ""))
        and _is_digest(header.sha256)
        and (is_of_bytes or _is_digest(header.alphabet))
        and all(_is_short(value) for item in header.path.items() for value in item)
        and all(0 <= count <= _MAX_COUNT for count in counts)
        and header.symbols <= header.bytes
        and (not is_of_bytes or (header.symbols, header.side_bytes) == (header.bytes, 0))
        and min(1, header.symbols) <= header.segments <= min(MAX_SEGMENTS, header.symbols)
        and 2 <= header.context <= MAX_SIZE["context"]
    )


def _is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def _is_short(value: object) -> bool:
    """Whether a key or a value of the path can be printed in an error."""
    return type(value) is int or (type(value) is str and len(value) <= _MAX_PATH_LENGTH)


def write_part(file: IO[bytes], data: bytes) -> None:
    """Writes a chunk: its size, its CRC-32, its bytes."""
    file.write(_PART.pack(len(data), zlib.crc32(data)) + data)


def read_part(file: IO[bytes], max_bytes: int, name: str) -> bytes:
    """The bytes of the next chunk. Raises UserError if it is damaged, cut short or larger than `max_bytes`."""
    size, checksum = _PART.unpack(_read(file, _PART.size, name))
    if size > max_bytes:
        raise _damaged(name)
    data = _read(file, size, name)
    if zlib.crc32(data) != checksum:
        raise _damaged(name)
    return data


def read_words(file: IO[bytes], max_symbols: int, name: str) -> np.ndarray:
    """The words of a chunk of at most `max_symbols` symbols."""
    data = read_part(file, 16 + 8 * max_symbols, name)
    if len(data) % 4:
        raise _damaged(name)
    return np.frombuffer(data, "<u4")


def check_size(file: IO[bytes], side_bytes: int, chunks: int, name: str) -> None:
    """Raises UserError if so few bytes follow the header that they cannot be a side stream and this many chunks. So a
    header with huge numbers costs no time."""
    place = file.tell()
    if file.seek(0, os.SEEK_END) - place < side_bytes + _PART.size * chunks:
        raise _cut_short(name)
    file.seek(place)


def check_end(file: IO[bytes], name: str) -> None:
    """Raises UserError if there are bytes after the last chunk."""
    if file.read(1):
        raise UserError(f"{name} has bytes after its end", rule="it was changed; get it again")


def _read(file: IO[bytes], size: int, name: str) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise _cut_short(name)
    return data


def _cut_short(name: str) -> UserError:
    return UserError(f"{name} is cut short", rule="get it again")


def _damaged(name: str) -> UserError:
    return UserError(f"{name} is damaged", rule="its checksums do not match; get it again")
