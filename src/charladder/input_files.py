"""Reading of input files with limits, so that a damaged or hostile file costs little time and memory."""

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import IO, Any

from charladder.errors import UserError

MAX_CONFIG_BYTES = 1 << 24  # of config.toml, environment.json, a recipe or a plan
MAX_KEY_PARTS = 8
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')
_PART = r"[\w\"'-]++"
_LONG_KEY = re.compile(rf"(?<![\w\"'-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}")


def open_regular(path: Path, max_bytes: int) -> IO[bytes]:
    """Opens a regular file of at most `max_bytes` bytes; the apparent size of a sparse file counts.

    Raises UserError for a larger file and, without waiting, for a pipe, a device or a folder; OSError if the file
    cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path} is not a regular file, and is not read")
        if status.st_size > max_bytes:
            raise UserError(f"{path} has {status.st_size:,} bytes, and is not read: at most {max_bytes:,} are")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_bytes(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> bytes:
    """The content of a regular file of at most `max_bytes` bytes. Raises as `open_regular`."""
    with open_regular(path, max_bytes) as file:
        return file.read(max_bytes)


def parse_toml(data: bytes, where: str) -> dict[str, Any]:
    """The tables of a TOML file. Raises UserError for invalid TOML, and for a key with too many parts, because the time
    to parse a key grows with the square of their number."""
    try:
        text = data.decode()
        if _LONG_KEY.search(_STRING.sub('""', text)):
            raise UserError(f"{where} has a key with more than {MAX_KEY_PARTS} parts, and is not read")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid TOML: {error}") from None
