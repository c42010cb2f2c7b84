"""The text of a source as a stream of chunks, which is not copied into the cache."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from charladder.text.archives import CHUNK_BYTES, is_archive, raise_as_user_error, read_chunks, unpack
from charladder.text.binary_files import is_binary, is_binary_file, peek
from charladder.text.encodings import recode_to_utf8
from charladder.text.file_reader import bytes_read, open_source
from charladder.text.sources import Source


@dataclass(frozen=True)
class TextChunk:
    """The next bytes of a file: unpacked and, with an encoding, in UTF-8.

    is_last: the file ends after them. is_live: they come from a pipe, whose next bytes may take long. packed_bytes: how
    many bytes of the source were read so far; 0 for a pipe.
    """

    file: str
    data: bytes
    is_last: bool
    is_live: bool
    packed_bytes: int


def stream_source(
    source: Source, codec: codecs.CodecInfo | None, notes: list[str], left_out: list[str]
) -> Iterator[TextChunk]:
    """Yields the chunks of all files of a source. codec: of its text (None: its bytes are not converted).

    Binary files that were not named themselves are left out: their names are appended to `left_out`. Sentences for the
    user are appended to `notes`. Raises UserError for a source that cannot be read, unpacked or decoded.
    """
    codec = None if source.is_utf8 else codec
    is_packed = is_archive(source.file_name)
    if is_left_out(source, codec):
        left_out.append(source.name)
        return
    with open_source(source, 0, codec is None and not is_packed, notes) as (file, length):
        is_live = length is None
        if is_packed:
            files = unpack(file, source.name, length, source.file_name)
        else:
            files = iter([(source.name, _read_live(file, source.name) if is_live else read_chunks(file, source.name))])
        for name, content in files:
            content = recode_to_utf8(content, codec, name) if codec else content
            if is_packed and (source.is_listed or name != source.name):
                first, content = peek(content)
                if is_binary(first):
                    left_out.append(name)
                    continue
            for data in content:
                yield TextChunk(name, data, False, is_live, bytes_read(file))
            yield TextChunk(name, b"", True, is_live, bytes_read(file))


def is_left_out(source: Source, codec: codecs.CodecInfo | None) -> bool:
    """Whether a source is a binary file that a folder or a pattern listed. False for an archive."""
    if not source.is_listed or source.path is None or is_archive(source.file_name):
        return False
    return is_binary_file(source.path, codec)


def _read_live(file: IO[bytes], name: str) -> Iterator[bytes]:
    """As `read_chunks`, but a chunk is what the pipe has now."""
    read = getattr(file, "read1", file.read)
    with raise_as_user_error(name):
        while chunk := read(CHUNK_BYTES):
            yield chunk
