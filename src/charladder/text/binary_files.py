"""Binary files: those with a zero byte near their beginning, such as pictures, programs and databases."""

import codecs
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

SNIFF_BYTES = 8192  # at the beginning of a file
MAX_NAMED_FILES = 3  # in a note


def is_binary(beginning: bytes) -> bool:
    """Whether a file with this beginning, in UTF-8, is binary."""
    return b"\0" in beginning[:SNIFF_BYTES]


def is_binary_file(path: Path, codec: codecs.CodecInfo | None) -> bool:
    """Whether a file is binary in this encoding (None: UTF-8). False for a file that cannot be read or decoded: reading
    all of it then raises the error."""
    try:
        with path.open("rb", buffering=0) as file:
            beginning = file.read(SNIFF_BYTES)
        return is_binary(codec.incrementaldecoder().decode(beginning, False).encode() if codec else beginning)
    except (OSError, UnicodeError):
        return False


def peek(content: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Returns the first chunk of a stream, and the complete stream."""
    first = next(content, b"")
    return first, chain([first] if first else [], content)


def left_out_note(names: list[str]) -> str:
    """A sentence that names the files that are left out."""
    files, have = ("a file is", "it has") if len(names) == 1 else (f"{len(names):,} files are", "they have")
    shown = ", ".join(names[:MAX_NAMED_FILES]) + (
        f" and {len(names) - MAX_NAMED_FILES:,} more" if len(names) > MAX_NAMED_FILES else ""
    )
    return (
        f"{files} left out, for {have} zero bytes, as no text has: {shown}; to read such a file, give its own name, or "
        "its encoding if it is text"
    )
