"""Writing to standard output and standard error, which may be terminals, files or pipes."""

import contextlib
import io
import os
import sys
from typing import IO, cast

from rich.console import Console


class Terminal(Console):
    """A rich console on standard output or standard error that raises BrokenPipeError when the reader is gone.

    ignore_write_errors: output that cannot be written is dropped, so that training continues. quiet: prints nothing.
    """

    def __init__(self, stderr: bool = False, ignore_write_errors: bool = False, quiet: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        file = cast(IO[str], _TolerantStream(stream)) if ignore_write_errors else None
        super().__init__(file=file, stderr=stderr, quiet=quiet)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _TolerantStream(io.TextIOBase):
    """A stream that drops what its stream cannot take: the terminal is closed, or the reader of the pipe is gone."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.stream, "encoding", "utf-8")

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except (OSError, ValueError):
            discard_output(self.stream)
            return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except (OSError, ValueError):
            discard_output(self.stream)


def discard_output(stream: IO[str]) -> None:
    """Redirects a stream to the null device, its buffered output included, which Python flushes at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_bytes(data: bytes) -> None:
    """Writes bytes to standard output; decoded ones where it takes only text, as in a notebook."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()
        return
    sys.stdout.flush()
    binary.write(data)
    binary.flush()


def escape_unprintable(text: str) -> str:
    """The text with escape sequences for characters that are not printable, which could control the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def print_message(sentence: str) -> None:
    """Prints one line on standard error, with escape sequences for characters that are not printable.

    Under torchrun, ranks other than 0 print their rank. Errors of writing are ignored.
    """
    shown = escape_unprintable(sentence)
    rank = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
    try:
        # One write for the whole line, because several ranks write to the same stream.
        sys.stderr.write(f"charladder{'' if rank == '0' else f' (rank {rank})'}: {shown}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        discard_output(sys.stderr)
