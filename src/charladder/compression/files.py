"""Compression and decompression of files. A result appears when it is complete; nothing is overwritten."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from charladder.atomic_io import FileAppeared, atomic_write
from charladder.compression.codec import DIGEST_DIGITS, Codec
from charladder.compression.container import (
    Header,
    check_end,
    check_size,
    read_header,
    read_part,
    write_header,
    write_part,
)
from charladder.compression.entropy_coder import check_coder_is_installed
from charladder.compression.letter_symbols import BLOCK_BYTES, join_symbols, split_symbols
from charladder.compression.numeric_path import check_numeric_path, numeric_path, threads_of
from charladder.compression.segments import Segments, choose_segments
from charladder.compression.symbol_coding import ReportSymbols, count_chunks, decode_symbols, encode_symbols
from charladder.errors import UserError
from charladder.input_files import open_regular

_MAX_BYTES = 1 << 60


@dataclass(frozen=True)
class CompressionResult:
    """bytes: of the original. symbols: those that the network coded. seconds: of all work."""

    bytes: int
    compressed_bytes: int
    symbols: int
    segments: int
    seconds: float


def compress_file(
    source_path: Path,
    path: Path,
    codec: Codec,
    on_start: ReportSymbols = lambda symbols: None,
    on_progress: ReportSymbols = lambda symbols: None,
) -> CompressionResult:
    """Compresses a file to `path`. on_start: called with the number of symbols, before the first is coded.

    Raises UserError for a file that is not regular or changes meanwhile, for a `path` that exists, and without the
    package constriction.
    """
    check_coder_is_installed()
    began = time.perf_counter()
    with open_regular(source_path, _MAX_BYTES) as source, _new_file(path) as part:
        ids_path, side_path = _part_of(part, "ids"), _part_of(part, "side")
        digest, size = sha256(), 0

        def add(data: bytes) -> None:
            nonlocal size
            digest.update(data)
            size += len(data)

        if codec.alphabet.letters:
            with ids_path.open("wb") as ids_file, side_path.open("wb") as side_file:
                symbols = split_symbols(source, codec.alphabet, ids_file, side_file, add)
        else:
            for block in _blocks(source):
                add(block)
            symbols = size
        segments = choose_segments(symbols, codec.characters_of_a_segment)
        predictor, runner = codec.open_predictor(segments)
        side_bytes = side_path.stat().st_size if side_path.exists() else 0
        header = Header(
            codec.mode, size, symbols, digest.hexdigest()[:DIGEST_DIGITS], codec.alphabet_name, segments.count,
            codec.context, side_bytes, codec.network, numeric_path(runner),
        )  # fmt: skip
        on_start(symbols)
        # For bytes the same open file: another one may have its name by now.
        ids = ids_path.open("rb") if codec.alphabet.letters else nullcontext(source)
        with part.open("wb") as output, ids as ids_file:
            write_header(output, header)
            if side_bytes:
                with side_path.open("rb") as side_file:
                    for block in _blocks(side_file):
                        write_part(output, block)
            encode_symbols(ids_file, codec.alphabet.dtype, segments, predictor, output, on_progress)
        if _digest(source) != digest.hexdigest():
            raise UserError(f"{source_path} changed while it was compressed", rule="compress a copy of it")
        compressed = part.stat().st_size
    return CompressionResult(size, compressed, symbols, segments.count, time.perf_counter() - began)


def read_file_header(path: Path) -> Header:
    """The header of a compressed file. Raises UserError for other files and for a damaged header."""
    with open_regular(path, _MAX_BYTES) as file:
        return read_header(file, str(path))


def decompress_file(
    source_path: Path, path: Path, codec: Codec, on_progress: ReportSymbols = lambda symbols: None
) -> CompressionResult:
    """Decompresses a file to `path` with the codec that `find_codec` returns for its header.

    Raises UserError for a damaged file, for one that was written on another numeric path, for a result that is not the
    original, for a `path` that exists, and without the package constriction.
    """
    check_coder_is_installed()
    began, name = time.perf_counter(), str(source_path)
    with open_regular(source_path, _MAX_BYTES) as source:
        header = read_header(source, name)
        segments = Segments(header.symbols, header.segments)
        check_size(source, header.side_bytes, count_chunks(segments), name)
        with threads_of(header.path, name), _new_file(path) as part:
            predictor, runner = codec.open_predictor(segments)
            check_numeric_path(header.path, runner, name)
            side_path = _part_of(part, "side") if header.side_bytes else None
            if side_path is not None:
                _copy_side_stream(source, header.side_bytes, side_path, name)
            ids_path = _part_of(part, "ids") if codec.alphabet.letters else part
            with ids_path.open("wb") as ids_file:
                decode_symbols(source, codec.alphabet.dtype, segments, predictor, ids_file, name, on_progress)
            check_end(source, name)
            if codec.alphabet.letters:
                _join(ids_path, side_path, part, codec, header, name)
            with part.open("rb") as output:
                if _digest(output)[:DIGEST_DIGITS] != header.sha256 or output.tell() != header.bytes:
                    raise UserError(
                        f"{name} did not decompress to its original", rule="the network computed other bits than when "
                        "it was written; decompress it on the machine that wrote it"
                    )  # fmt: skip
        compressed = source.tell()
    return CompressionResult(header.bytes, compressed, header.symbols, header.segments, time.perf_counter() - began)


def _copy_side_stream(source: IO[bytes], size: int, path: Path, name: str) -> None:
    with path.open("wb") as file:
        while file.tell() < size:
            data = read_part(source, min(BLOCK_BYTES, size - file.tell()), name)
            if not data:
                raise UserError(f"{name} is damaged", rule="get it again")
            file.write(data)


def _join(ids_path: Path, side_path: Path | None, part: Path, codec: Codec, header: Header, name: str) -> None:
    """Writes the original from its letters and its side stream."""
    with part.open("wb") as output, ids_path.open("rb") as ids_file:
        if side_path is None:
            output.writelines(join_symbols(ids_file, None, codec.alphabet, header.bytes, name))
            return
        with side_path.open("rb") as side_file:
            output.writelines(join_symbols(ids_file, side_file, codec.alphabet, header.bytes, name))


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end. Raises UserError if that exists, or its folder does not."""
    if os.path.lexists(path):
        raise UserError(f"{path} exists and is not overwritten", rule="choose another name")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}", rule="make it first")
    try:
        with atomic_write(path, overwrite=False) as part:
            yield part
    except FileAppeared as error:
        raise UserError(str(error)) from None


def _part_of(part: Path, name: str) -> Path:
    """A temporary file beside `part`, whose name is another one whatever the user calls the new file."""
    return part.with_name(f"{part.name}.{name}")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _digest(file: IO[bytes]) -> str:
    """The SHA-256 of a whole file."""
    digest = sha256()
    file.seek(0)
    for block in _blocks(file):
        digest.update(block)
    return digest.hexdigest()
