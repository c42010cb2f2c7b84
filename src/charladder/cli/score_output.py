"""Output of `charladder score`: rows to standard output or a file, the most surprising rows, and the totals."""

import heapq
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from charladder.cli.progress import PlainLineTimer, format_time_left, percentage_bar
from charladder.cli.tables import AdaptiveTable
from charladder.cli.terminal import Terminal, escape_unprintable
from charladder.evaluation.table_file import WriteColumns, write_table
from charladder.scoring import Row, RowMaker, ScoredLine
from charladder.strict_json import dumps

_MAX_SHOWN = 160  # characters of a text in the table
_ROWS_AT_ONCE = 1 << 16
MEASURES = ("bits_per_character", "bits", "span_bits")


class TopRows:
    """The rows with the highest value of a measure; of equal ones the first. Rows without characters are left out."""

    def __init__(self, count: int, measure: str) -> None:
        self.count, self.measure, self.added = count, measure, 0
        self.heap: list[tuple[float, int, Row]] = []

    def add(self, row: Row) -> None:
        self.added += 1
        if row["characters"] and self.count:
            entry = (row[self.measure], -self.added, row)
            (heapq.heappush if len(self.heap) < self.count else heapq.heappushpop)(self.heap, entry)

    def rows(self) -> list[Row]:
        """The highest first."""
        return [row for _, _, row in sorted(self.heap, key=lambda entry: entry[:2], reverse=True)]


class RowOutput:
    """Takes scored lines, and writes their rows.

    write: to a file; None: to standard output as JSON lines, unless `top` collects the most surprising rows.
    """

    def __init__(self, maker: RowMaker, write: WriteColumns | None, top: TopRows | None) -> None:
        self.maker, self.write, self.top = maker, write, top
        self.stdout = sys.stdout  # rich replaces sys.stdout while it shows a progress bar on standard error
        self.lines, self.characters, self.bits = 0, 0, 0.0
        self.files: set[str] = set()
        self.began = time.perf_counter()

    def consume(self, lines: Sequence[ScoredLine]) -> None:
        for line in lines:
            self.lines += 1
            self.files.add(line.file)
            self.characters += len(line.ids_M)
            self.bits += float(line.bits_M.sum())
        self._write_rows(self.maker.rows(lines))

    def finish(self) -> None:
        self._write_rows(self.maker.last_rows())

    def _write_rows(self, rows: Iterable[Row]) -> None:
        """Writes rows in parts, because a long line has millions of them with --by character."""
        remaining = iter(rows)
        while part := list(islice(remaining, _ROWS_AT_ONCE)):
            if self.top is not None:
                for row in part:
                    self.top.add(row)
            if self.write is not None:
                self.write({name: [row[name] for row in part] for name in self.maker.columns})
            elif self.top is None:
                self.stdout.writelines(f"{dumps(row)}\n" for row in part)
                self.stdout.flush()

    def totals(self) -> dict[str, Any]:
        """The sums over all lines, their newlines included."""
        seconds = time.perf_counter() - self.began
        return {
            "lines": self.lines,
            "characters": self.characters,
            "bits": self.bits,
            "bits_per_character": self.bits / self.characters if self.characters else 0.0,
            "seconds": seconds,
            "characters_per_second": self.characters / seconds if seconds else 0.0,
        }


@contextmanager
def open_output(maker: RowMaker, path: str | None, top: TopRows | None) -> Iterator[RowOutput]:
    """Yields the output of rows; a file appears when it is complete. Raises UserError as `write_table`."""
    with write_table(Path(path), maker.columns, "output") if path else nullcontext() as write:
        yield RowOutput(maker, write, top)


@contextmanager
def score_progress(output: RowOutput, label: str, total: int | None) -> Iterator[Callable[[float], None]]:
    """Yields the function that takes how much of `total` is done: a bar on a terminal, a plain line every ten seconds
    elsewhere. No bar is shown if rows are printed on the same terminal."""
    prints_rows = output.write is None and output.top is None
    if prints_rows and sys.stdout.isatty():
        yield lambda done: None
        return
    console, timer = Terminal(stderr=True), PlainLineTimer()
    with percentage_bar(console, f"scoring {label}", total or 1) as update:

        def report(done: float) -> None:
            bits = f"{output.bits / output.characters:.3f} bits/char" if output.characters else ""
            if console.is_terminal:
                update(done if total else 0, bits)
            elif timer.is_due():
                seconds = time.perf_counter() - output.began
                left = f"{format_time_left(seconds * (total - done) / done)} left" if total and done else ""
                share = f"{done / total:.0%}" if total else f"{output.characters:,} characters"
                shown = ", ".join(part for part in (share, bits, left) if part)
                print(f"scoring {label}: {shown}", file=sys.stderr, flush=True)

        yield report


def print_top(console: Console, rows: Sequence[Row], measure: str, several_files: bool) -> None:
    """Prints rows of lines or files as a table. It has a column for `measure`, which the rows are sorted by."""
    by_span = measure == "span_bits"
    names = [
        *(["span bits"] if by_span else []),
        "bits/char",
        "bits",
        "where",
        "span",
        *(["text"] if rows and "text" in rows[0] else []),
    ]
    table = AdaptiveTable(*names, wrapped=("where", "span", "text"))
    for row in rows:
        line = row.get("line")
        where = row["file"] if line is None else f"{row['file']}:{line}" if several_files else str(line)
        cells = [where, row["span"], *([_shorten(row["text"], row["span_begin"])] if "text" in row else [])]
        span_bits = [f"{row['span_bits']:.1f}"] if by_span else []
        numbers = *span_bits, f"{row['bits_per_character']:.3f}", f"{row['bits']:.1f}"
        table.add_row(*numbers, *map(escape_unprintable, cells))
    console.print(table, highlight=False)


def _shorten(text: str, place: int) -> str:
    """A long text around its most surprising span."""
    if len(text) <= _MAX_SHOWN:
        return text
    begin = max(0, min(place - _MAX_SHOWN // 2, len(text) - _MAX_SHOWN))
    end = begin + _MAX_SHOWN
    return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"
