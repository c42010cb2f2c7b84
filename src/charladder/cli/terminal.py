"""The terminal, or whatever is in its place."""

import contextlib
import io
import os
import sys
from typing import IO, cast

from rich.console import Console


class Terminal(Console):
    """A rich console that leaves it to `main` what happens when whoever reads our output has gone.

    lasting: then nothing happens: what would be said is said to nobody, and the work goes on. quiet: says nothing.
    """

    def __init__(self, stderr: bool = False, ignore_write_errors: bool = False, quiet: bool = False) -> None:
        stream = sys.stderr if stderr else sys.stdout
        file = cast(IO[str], _TolerantStream(stream)) if ignore_write_errors else None
        super().__init__(file=file, stderr=stderr, quiet=quiet)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _TolerantStream(io.TextIOBase):
    """A stream that swallows what its own stream cannot take any more: a closed terminal, a pipe that nobody reads."""

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
    """From here on a stream ends in nothing, with what it still holds: at exit that would be flushed once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_bytes(data: bytes) -> None:
    """Bytes on standard output, as they are; in their place text, where that takes nothing else (in a notebook)."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(data.decode("utf-8", "replace"))
        sys.stdout.flush()
        return
    sys.stdout.flush()
    binary.write(data)
    binary.flush()


def print_message(sentence: str) -> None:
    """One line on standard error, whatever names are in it: what cannot be printed is shown as Python writes it.

    Under torchrun all but rank 0 say which they are. Where nobody reads it, nothing happens.
    """
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in sentence)
    rank = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
    try:
        # The end of the line in the same piece, for several ranks write to one place.
        sys.stderr.write(f"charladder{'' if rank == '0' else f' (rank {rank})'}: {shown}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        discard_output(sys.stderr)
