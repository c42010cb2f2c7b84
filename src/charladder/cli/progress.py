"""Progress on standard error: bars and the time left on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from charladder.cli.terminal import Terminal, escape_unprintable
from charladder.text import ProgressCallback

_PLAIN_LINE_SECONDS = 10.0


class PlainLineTimer:
    """Limits plain lines of progress to one in ten seconds.

    immediate: whether the first line is due at once.
    """

    def __init__(self, immediate: bool = False) -> None:
        self._last = -_PLAIN_LINE_SECONDS if immediate else time.monotonic()

    def is_due(self) -> bool:
        """Whether a line should be printed now; if so, the next one is due after ten more seconds."""
        now = time.monotonic()
        if now - self._last <= _PLAIN_LINE_SECONDS:
            return False
        self._last = now
        return True


class LiveDisplay:
    """A context manager around rich's live display; `live` is None where there is no terminal."""

    def __init__(self, console: Console, refresh_per_second: float) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=refresh_per_second) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)


def format_time_left(seconds: float) -> str:
    """Minutes and seconds, as in 2:05.

    >>> format_time_left(125.4), format_time_left(-1)
    ('2:05', '0:00')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"


@contextmanager
def reading_progress() -> Iterator[ProgressCallback]:
    """A Report of bytes read: a bar on a terminal, a plain line every ten seconds elsewhere."""
    console, timer = Terminal(stderr=True), PlainLineTimer()
    columns = _description(), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with _transient_progress(console, *columns) as bar:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            if console.is_terminal:
                if what not in tasks:
                    tasks[what] = bar.add_task(escape_unprintable(what), total=total)
                bar.update(tasks[what], completed=done, total=total)
            elif timer.is_due():
                print(f"{what}: {done:,}{f' of {total:,}' if total else ''} bytes", file=sys.stderr, flush=True)

        yield report


@contextmanager
def percentage_bar(console: Console, label: str, total: float) -> Iterator[Callable[[float, str], None]]:
    """A bar on a terminal; yields the function that takes what is done, of `total`, and a status shown behind it."""
    columns = _description(), BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.fields[status]}")
    with _transient_progress(console, *columns) as bar:
        task = bar.add_task(escape_unprintable(label), total=total, status="")
        yield lambda done, status: bar.update(task, completed=done, status=status)


@contextmanager
def scoring_bar(console: Console, label: str, total: int) -> Iterator[Callable[[int, float | None], None]]:
    """A bar on a terminal; yields the function that takes the characters scored and, if known, their bits."""
    with percentage_bar(console, f"scoring {label}", total) as update:

        def report(characters: int, bits: float | None = None) -> None:
            update(characters, "" if bits is None else f"{bits / characters:.3f} bits/char")

        yield report


def _description() -> TextColumn:
    """The column of a task's description, which may have the name of a file: brackets in it are no markup of rich, and
    braces no format."""
    return TextColumn("{task.description}", markup=False)


def _transient_progress(console: Console, *columns: ProgressColumn) -> Progress:
    """A rich progress display that ends with the time left, and is erased at its end."""
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True)
