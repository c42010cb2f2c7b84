"""Any file as symbols of a letter alphabet and a side stream of what is outside it.

The file is read as UTF-8; a byte that is not UTF-8 becomes a lone surrogate (Python's `surrogateescape`), so nothing is
lost. Letters of the alphabet are symbols for the network. All other characters go to the side stream, which LZMA
compresses: for each the number of letters since the one before it, and its code point.

Shapes: P characters of a block, K of them outside the alphabet.
"""

import codecs
import lzma
import struct
from collections.abc import Callable, Iterator
from typing import IO

import numpy as np

from charladder.errors import UserError
from charladder.text import Alphabet

BLOCK_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_MAX_LZMA_MEMORY = 32 << 20  # of a decoder, in bytes; the streams of `split_symbols` need 9 MiB
_BLOCK = struct.Struct("<II")  # characters, and how many of them are outside the alphabet


def split_symbols(
    source: IO[bytes], alphabet: Alphabet, ids_file: IO[bytes], side_file: IO[bytes], on_block: Callable[[bytes], None]
) -> int:
    """Writes the symbols of `source`, and the side stream if it is needed. Returns how many symbols there are.

    on_block: called with the bytes of `source`, one block after the other.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    symbols, outside = 0, 0
    with lzma.open(side_file, "wb") as side:
        while True:
            data = source.read(BLOCK_BYTES)
            on_block(data)
            text = decoder.decode(data, final=not data)
            points_P = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
            ids_P = alphabet.ids_by_code_point_P[points_P]
            places_K = np.flatnonzero(ids_P < 0)
            ids_file.write(ids_P[ids_P >= 0].astype(alphabet.dtype).tobytes())
            side.write(_BLOCK.pack(len(points_P), len(places_K)))
            letters_between_K = np.diff(places_K, prepend=-1) - 1
            side.write(letters_between_K.astype("<u4").tobytes() + points_P[places_K].tobytes())
            symbols, outside = symbols + len(points_P) - len(places_K), outside + len(places_K)
            if not data:
                break
    if not outside:
        side_file.truncate(0)
    return symbols


def join_symbols(
    ids_file: IO[bytes], side_file: IO[bytes] | None, alphabet: Alphabet, size: int, name: str
) -> Iterator[bytes]:
    """Yields the blocks of the original, which has `size` bytes. side_file: None if there is no side stream. Raises
    UserError if the side stream is damaged or does not fit."""
    letters_V = np.frombuffer(alphabet.letters.encode("utf-32-le"), "<u4")
    for count, places_K, outside_K in _read_blocks(side_file, size, name):
        id_bytes = (count - len(places_K)) * np.dtype(alphabet.dtype).itemsize
        ids = np.frombuffer(ids_file.read(id_bytes), alphabet.dtype)
        if side_file is None:
            yield letters_V[ids].tobytes().decode("utf-32-le").encode()
            if not len(ids):
                return
            continue
        points_P = np.zeros(count, "<u4")
        is_inside_P = np.ones(count, bool)
        if (places_K >= count).any():
            raise _damaged(name)
        is_inside_P[places_K] = False
        if np.count_nonzero(is_inside_P) != len(ids):
            raise _damaged(name)
        points_P[is_inside_P], points_P[places_K] = letters_V[ids], outside_K
        try:
            yield points_P.tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8", "surrogateescape")
        except UnicodeError:
            raise _damaged(name) from None


def _read_blocks(side_file: IO[bytes] | None, size: int, name: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yields the blocks of the side stream: characters, and places and code points of those outside the alphabet.
    Without a side stream, endless blocks of the alphabet's letters."""
    empty = np.empty(0, "<u4")
    while side_file is None:
        yield BLOCK_BYTES, empty, empty
    side, blocks = _LzmaReader(side_file), 0
    try:
        while header := side.read(_BLOCK.size):
            count, outside = _BLOCK.unpack(header)
            blocks += 1
            # A file of a few bytes can have endless empty blocks in it.
            if outside > count or count > BLOCK_BYTES + 4 or blocks > size // BLOCK_BYTES + 2:
                raise _damaged(name)
            letters_between_K, outside_K = (np.frombuffer(side.read(4 * outside), "<u4") for _ in range(2))
            if len(outside_K) != outside:
                raise _damaged(name)
            yield count, np.cumsum(letters_between_K.astype(np.int64) + 1) - 1, outside_K
    except (lzma.LZMAError, EOFError, struct.error, ValueError):
        raise _damaged(name) from None


class _LzmaReader:
    """Reads an xz stream in bounded memory, whatever dictionary it asks for. (lzma.open has no such limit.)"""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_LZMA_MEMORY)

    def read(self, size: int) -> bytes:
        """The next `size` bytes, fewer at the end. Raises LZMAError or EOFError for a damaged stream."""
        data = bytearray()
        while len(data) < size and not self._decompressor.eof:
            more = self._file.read(_READ_BYTES) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not more:
                raise EOFError
            data += self._decompressor.decompress(more, size - len(data))
        return bytes(data)


def _damaged(name: str) -> UserError:
    return UserError(f"the side stream of {name} is damaged", rule="get the file again")
