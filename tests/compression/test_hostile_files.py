"""Headers and side streams that no encoder writes are refused, in bounded time and memory."""

import io
import lzma
import struct
from dataclasses import replace

import pytest

from charladder.compression.container import Header, check_size, read_header, write_header
from charladder.compression.letter_symbols import join_symbols, split_symbols
from charladder.compression.segments import Segments
from charladder.compression.symbol_coding import count_chunks
from charladder.errors import UserError
from charladder.text import Alphabet

HEADER = Header(
    "network", 8, 8, "0123456789ab", "bytes", 1, 16, 0, "ba9876543210", {"torch": "2.9", "threads": 1}
)  # fmt: skip
LETTERS = Alphabet("abc")


def written(header: Header) -> io.BytesIO:
    file = io.BytesIO()
    write_header(file, header)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {"network": ""},  # would fit every network
        {"network": "\x1b[31mred"},  # would be printed
        {"mode": "online"},
        {"sha256": "0"},
        {"alphabet": "\x1b[31mred"},
        {"bytes": 9},
        {"side_bytes": 5},
        {"alphabet": "0123456789ab", "symbols": 9},  # more characters than bytes
        {"segments": 0},
        {"path": {"torch": "A" * 1000}},
        {"path": {"torch": [1, {}]}},
        {"path": {"threads": True}},
        {"path": {"A" * 1000: 1}},
    ],
    ids=str,
)
def test_headers(changes):
    for header in (HEADER, replace(HEADER, mode="online", network="")):
        assert read_header(written(header), "file") == header
    with pytest.raises(UserError, match="file is damaged"):
        read_header(written(replace(HEADER, **changes)), "file")


def test_a_header_with_huge_numbers_costs_no_time():
    file = written(replace(HEADER, bytes=1 << 60, symbols=1 << 60))
    header = read_header(file, "file")
    chunks = count_chunks(Segments(header.symbols, header.segments))
    assert chunks == 1 << 40
    with pytest.raises(UserError, match="file is cut short"):
        check_size(file, 0, chunks, "file")


def join(side: bytes, size: int) -> bytes:
    return b"".join(join_symbols(io.BytesIO(), io.BytesIO(side), LETTERS, size, "file"))


@pytest.mark.parametrize("data", [b"\xc3", b"\xff\xfe", "äöü".encode(), b"\xe6\x97", b"x" * 2000])
def test_files_without_a_letter_of_the_alphabet(data):
    ids, side = io.BytesIO(), io.BytesIO()
    assert split_symbols(io.BytesIO(data), LETTERS, ids, side, lambda block: None) == 0
    assert join(side.getvalue(), len(data)) == data


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack("<II", 0, 0) * 100_000,  # endless empty blocks
        struct.pack("<IIII", 1, 1, 0, ord("x")) * 100_000,  # endless short blocks
        struct.pack("<II", 1 << 31, 1 << 31),
        struct.pack("<IIIIII", 2, 2, 0, 1, 5, 5),  # a place after the end
        struct.pack("<IIII", 1, 1, 0, 1 << 31),  # no character
        b"\0" * 7,
    ],
    ids=["empty", "short", "huge", "place", "point", "cut"],
)
def test_side_streams(stream):
    with pytest.raises(UserError, match="the side stream of file is damaged"):
        join(lzma.compress(stream, preset=0), 8)


def test_runs_outside_the_alphabet_are_small():
    data, ids, side = b"ab" + bytes(500_000) + "é".encode() * 1000 + b"a", io.BytesIO(), io.BytesIO()
    split_symbols(io.BytesIO(data), LETTERS, ids, side, lambda block: None)
    ids.seek(0)
    side.seek(0)
    assert b"".join(join_symbols(ids, side, LETTERS, len(data), "file")) == data
    assert len(side.getvalue()) < 1000


def test_a_side_stream_with_a_large_dictionary():
    """A decoder would need as much memory as the dictionary has."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 << 20}]
    stream = lzma.compress(struct.pack("<IIII", 1, 1, 0, ord("x")), filters=filters)
    with pytest.raises(UserError, match="the side stream of file is damaged"):
        join(stream, 1)
