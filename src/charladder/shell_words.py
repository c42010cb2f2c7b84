"""Names of files as words of a shell, for the commands that are printed, and as text."""

import shlex
from pathlib import Path


def quote_path(path: Path | str) -> str:
    """A path as one word of a shell. A name that begins with a dash gets `./`, because it would be an option."""
    name = str(path)
    return shlex.quote(f"./{name}" if name.startswith("-") and name != "-" else name)


def name_as_text(name: str) -> str:
    """The name of a file with U+FFFD for bytes that are not UTF-8, which no text file can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
