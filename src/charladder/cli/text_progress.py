"""Reading a text with a progress bar, on standard error: what all verbs that take DATA share."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from charladder.cli.terminal import Terminal
from charladder.text import Corpus, Report

QUIET_SECONDS = 10.0


@contextmanager
def reading_progress() -> Iterator[Report]:
    """A Report that shows a bar on a terminal, and elsewhere a plain line every ten seconds."""
    console = Terminal(stderr=True)
    said = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        tasks = {}

        def report(what: str, done: int, total: int | None) -> None:
            nonlocal said
            if console.is_terminal:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done, total=total)
            elif time.monotonic() - said > QUIET_SECONDS:
                said = time.monotonic()
                print(f"{what}: {done:,}{f' of {total:,}' if total else ''} bytes", file=sys.stderr, flush=True)

        yield report


def print_text_notes(corpus: Corpus) -> None:
    """What a person should know of how the text was read."""
    for note in corpus.notes:
        print(f"note: {note}", file=sys.stderr)
    if corpus.unknown:
        print(
            f"note: {corpus.unknown:,} letters of {corpus.name} are outside the alphabet, and replaced or dropped",
            file=sys.stderr,
        )
