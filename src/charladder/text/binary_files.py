"""Files that are not text: those with a zero byte near their beginning, as pictures, programs and databases have."""

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

SNIFF_BYTES = 8192  # bytes of the beginning that are looked at
MAX_NAMED_FILES = 3  # files that a note names


def is_binary(beginning: bytes) -> bool:
    """Whether a file that begins so, in UTF-8, is not text."""
    return b"\0" in beginning[:SNIFF_BYTES]


def is_binary_file(path: Path, codec: codecs.CodecInfo | None) -> bool:
    """Whether a file is not text in this encoding (None: UTF-8). False for one that cannot be read or decoded: that is
    said when it is read as a whole."""
    try:
        with path.open("rb", buffering=0) as file:
            beginning = file.read(SNIFF_BYTES)
        return is_binary(codec.incrementaldecoder().decode(beginning, False).encode() if codec else beginning)
    except (OSError, UnicodeError):
        return False


def peek(content: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first chunk of a stream, and all of the stream."""
    first = next(content, b"")
    return first, chain([first] if first else [], content)


def left_out_note(names: list[str]) -> str:
    """One sentence about files that are not read."""
    files, have = ("a file is", "it has") if len(names) == 1 else (f"{len(names):,} files are", "they have")
    shown = ", ".join(names[:MAX_NAMED_FILES]) + (
        f" and {len(names) - MAX_NAMED_FILES:,} more" if len(names) > MAX_NAMED_FILES else ""
    )
    return (
        f"{files} left out, for {have} zero bytes, as no text has: {shown}; to read such a file, give its own name, or "
        "its encoding if it is text"
    )
