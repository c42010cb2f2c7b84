"""Arguments and progress that `compress` and `decompress` share."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from charladder.cli.progress import PlainLineTimer, percentage_bar
from charladder.cli.terminal import Terminal
from charladder.compression import CompressionResult
from charladder.errors import UserError


def find_run(options: argparse.Namespace, mode: str | None) -> tuple[Path | None, Path, Path | None]:
    """RUN, FILE and OUT of the arguments; None for what is not given.

    mode: `network` if there is a RUN, `online` if there is none; None if it is the first argument where that is a
    folder, or where all three are given.
    """
    words = [word for word in (options.run, options.file, options.output) if word is not None]
    has_run = mode == "network" or (mode is None and bool(words) and (len(words) == 3 or Path(words[0]).is_dir()))
    if len(words) < 1 + has_run:
        advice = "give RUN and FILE, or --online and FILE" if mode == "network" else "give FILE"
        raise UserError("FILE is missing", rule=advice)
    if len(words) > 2 + has_run:
        raise UserError(f"there is no use for the argument {words[-1]!r}: --online takes FILE and OUT, and no run")
    if mode == "online" and Path(words[0]).is_dir():
        raise UserError(f"{words[0]} is a folder", rule="--online takes FILE and OUT, and no run")
    run, (source, *output) = (Path(words[0]) if has_run else None), words[has_run:]
    return run, Path(source), Path(output[0]) if output else None


@contextmanager
def coding_bar(label: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """A bar on a terminal, and a plain line every ten seconds elsewhere. Yields the function that takes the number of
    characters before the first is coded, and the function that takes how many are done."""
    console, timer, total = Terminal(stderr=True), PlainLineTimer(), 0
    with percentage_bar(console, label, 1.0) as update:

        def start(characters: int) -> None:
            nonlocal total
            total = characters

        def report(done: int) -> None:
            update(done / max(1, total), f"{done:,} of {total:,} characters")
            if not console.is_terminal and timer.is_due():
                print(f"{label}: {done:,} of {total:,} characters", file=sys.stderr, flush=True)

        yield start, report


def format_speed(result: CompressionResult) -> str:
    """Seconds and speed of a result."""
    speed = result.symbols / max(1e-9, result.seconds)
    return f"{result.symbols:,} characters in {result.seconds:.1f} s ({speed:,.0f} characters/s)"
