"""The lines of text files, and the texts in JSON lines and parquet files, in blocks of bounded size."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.text.archives import CHUNK_BYTES, raise_as_user_error
from charladder.text.binary_files import left_out_note
from charladder.text.encodings import find_codec
from charladder.text.file_reader import source_size
from charladder.text.source_stream import TextChunk, stream_source
from charladder.text.sources import Source

MAX_LINE_BYTES = 1 << 22
_PARQUET_ROWS = 256  # read at once


@dataclass(frozen=True)
class TextLine:
    """A line of a file, or a text of a row. line: counted from 1. has_end: whether `data` ends with a newline that ends
    the line."""

    file: str
    line: int
    data: bytes
    has_end: bool = False


@dataclass(frozen=True)
class Block:
    """Successive lines. packed_bytes: how many bytes of all sources were read so far. is_live: the next lines may take
    long to come."""

    lines: list[TextLine]
    packed_bytes: int
    is_live: bool = False


def read_blocks(
    sources: Sequence[Source], encoding: str = "utf-8", field: str | None = None, notes: list[str] | None = None
) -> Iterator[Block]:
    """Yields the lines of all sources, at least 256 KiB at once except at the end and from a pipe.

    field: the sources are JSON lines, or parquet files where the name ends in .parquet, and the texts are in this
    field. Without it, lines end at a newline, which belongs to them. Sentences for the user are appended to `notes`.
    Raises UserError for a source that cannot be read, for a line of more than 4 MiB, and for a row without the field.
    """
    codec, left_out = find_codec(encoding), []
    notes = [] if notes is None else notes

    def blocks() -> Iterator[Block]:
        before = 0
        for source in sources:
            if is_parquet(source):
                found = _read_parquet(source, field)
            else:
                found = _split_lines(stream_source(source, codec, notes, left_out))
                found = found if field is None else (_parse_json(block, field) for block in found)
            for block in found:
                yield Block(block.lines, before + block.packed_bytes, block.is_live)
            before += source_size(source) or 0

    yield from _join_small_blocks(blocks())
    if left_out:
        notes.append(left_out_note(left_out))


def is_parquet(source: Source) -> bool:
    return source.file_name.lower().endswith(".parquet")


def _join_small_blocks(blocks: Iterable[Block]) -> Iterator[Block]:
    lines: list[TextLine] = []
    size, packed_bytes = 0, 0
    for block in blocks:
        lines += block.lines
        size += sum(len(line.data) for line in block.lines)
        packed_bytes = block.packed_bytes
        if lines and (block.is_live or size >= CHUNK_BYTES):
            yield Block(lines, packed_bytes, block.is_live)
            lines, size = [], 0
    if lines:
        yield Block(lines, packed_bytes)


def _split_lines(chunks: Iterator[TextChunk]) -> Iterator[Block]:
    number, begun = 0, b""  # the lines so far, and the beginning of the next one
    for chunk in chunks:
        *complete, begun = (begun + chunk.data).split(b"\n")
        lines = [TextLine(chunk.file, number + n, data + b"\n", True) for n, data in enumerate(complete, 1)]
        number += len(lines)
        if chunk.is_last and begun:
            lines.append(TextLine(chunk.file, number + 1, begun))
        for line in lines:
            _check_length(line.file, line.line, len(line.data))
        _check_length(chunk.file, number + 1, len(begun))
        yield Block(lines, chunk.packed_bytes, chunk.is_live)
        if chunk.is_last:
            number, begun = 0, b""


def _check_length(file: str, line: int, size: int) -> None:
    if size > MAX_LINE_BYTES:
        raise UserError(
            f"{file}, line {line} has more than {MAX_LINE_BYTES:,} bytes, which are too many for one row; a text "
            "file can be scored with --by file or --by character"
        )


def _parse_json(block: Block, field: str) -> Block:
    """The texts in a block of JSON lines. Empty lines have none."""
    texts = []
    for line in block.lines:
        if not line.data.strip():
            continue
        try:
            value = json.loads(line.data)
        except (ValueError, RecursionError):
            value = None
        where = f"{line.file}, line {line.line}"
        if not isinstance(value, dict):
            raise UserError(f"{where} is not a JSON object; --field is for JSON lines and parquet")
        if field not in value:
            raise UserError(f"{where} has no field {field!r}{suggest_names(field, value)}", field="field")
        texts.append(TextLine(line.file, line.line, _encode(value[field], where, field)))
    return Block(texts, block.packed_bytes, block.is_live)


def _encode(value: Any, where: str, field: str) -> bytes:
    """The UTF-8 of a text; null is an empty text."""
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {field!r} is not a string", field="field")
    try:
        return (value or "").encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {field!r} has half of a surrogate pair, which cannot be encoded") from None


def _read_parquet(source: Source, field: str | None) -> Iterator[Block]:
    if source.path is None or field is None:
        raise UserError(f"{source.name} is a parquet file; say with --field which column has the texts")
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f'reading {source.name} needs pyarrow, which is not installed: pip install "charladder[parquet]"'
        ) from None
    with raise_as_user_error(source.name):
        try:
            with parquet.ParquetFile(source.path) as file:
                yield from _read_columns(file, source, field)
        except pyarrow.ArrowException as error:
            raise UserError(f"{source.name} cannot be read as parquet: {str(error).splitlines()[0]}") from None


def _read_columns(file: Any, source: Source, field: str) -> Iterator[Block]:
    """The texts in a column of a pyarrow.parquet.ParquetFile."""
    names, rows, size = file.schema_arrow.names, file.metadata.num_rows, source_size(source) or 0
    if field not in names:
        raise UserError(f"{source.name} has no column {field!r}{suggest_names(field, names)}", field="field")
    done = 0
    for batch in file.iter_batches(_PARQUET_ROWS, columns=[field]):
        texts = []
        for number, value in enumerate(batch.column(0).to_pylist(), done + 1):
            texts.append(TextLine(source.name, number, _encode(value, f"{source.name}, row {number}", field)))
            _check_length(source.name, number, len(texts[-1].data))
        done += len(texts)
        yield Block(texts, size * done // max(rows, 1))
