"""Rows of scored lines, characters and files, as columns.

Shapes: M symbols of a line, its newline included.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from charladder.evaluation import character_export
from charladder.evaluation.character_export import spell_symbols
from charladder.scoring.scored_line import ScoredLine
from charladder.shell_words import name_as_text
from charladder.text import Alphabet

SPAN_COLUMNS = {"span": "string", "span_begin": "int64", "span_end": "int64", "span_bits": "float64"}
LINE_COLUMNS = {
    "file": "string", "line": "int64", "text": "string", "bits": "float64", "characters": "int64",
    "bits_per_character": "float64", "end_bits": "float64", "rank": "float64", **SPAN_COLUMNS,
}  # fmt: skip
FILE_COLUMNS = {
    "file": "string", "lines": "int64", "bits": "float64", "characters": "int64", "bits_per_character": "float64",
    "rank": "float64", "span_line": "int64", **SPAN_COLUMNS,
}  # fmt: skip
CHARACTER_COLUMNS = {"file": "string", "line": "int64", **character_export.COLUMNS}
ENTROPY_COLUMN = {"line": "list<float>", "file": "float64", "character": "float64"}
"""The type of the column `entropy` by kind of row."""
Row = dict[str, Any]
_SYMBOLS_AT_ONCE = 1 << 14  # of a line that become numbers of Python, which take more memory than arrays


def most_surprising_span(bits_M: np.ndarray, length: int) -> tuple[int, int, float]:
    """Begin, end and bits of the `length` successive symbols with the most bits, the first of equal ones; of all
    symbols if there are fewer."""
    if len(bits_M) <= length:
        return 0, len(bits_M), float(bits_M.sum())
    totals = np.cumsum(bits_M)
    totals_of_spans = totals[length - 1 :] - np.concatenate(([0.0], totals[:-length]))
    begin = int(np.argmax(totals_of_spans))
    return begin, begin + length, float(bits_M[begin : begin + length].sum())


def line_row(line: ScoredLine, alphabet: Alphabet, span_length: int) -> Row:
    """The row of a line. Its newline is not among its characters: what it costs is in `end_bits`."""
    count = line.characters
    bits_M, ids_M = line.bits_M[:count], line.ids_M[:count]
    bits = float(bits_M.sum())
    row: Row = {
        "file": name_as_text(line.file), "line": line.line, "text": _decode(alphabet, ids_M), "bits": bits,
        "characters": count,
        "bits_per_character": bits / count if count else 0.0,
        "end_bits": float(line.bits_M[count]) if line.has_end else None,
        "rank": float(line.ranks_M[:count].mean()) if count else 0.0,
    }  # fmt: skip
    row |= _span_entries(line, alphabet, span_length)
    return row if line.entropy_M is None else row | {"entropy": np.round(line.entropy_M[:count], 4).tolist()}


def character_rows(line: ScoredLine, spelled: Sequence[str]) -> Iterator[Row]:
    """A row for each symbol of a line, its newline included. spelled: the text of each symbol of the alphabet."""
    file = name_as_text(line.file)
    arrays = line.ids_M, line.bits_M, line.ranks_M, line.seen_M
    for begin in range(0, len(line.ids_M), _SYMBOLS_AT_ONCE):
        part = slice(begin, begin + _SYMBOLS_AT_ONCE)
        columns = [array[part].tolist() for array in arrays]
        entropy = repeat(None, len(columns[0])) if line.entropy_M is None else line.entropy_M[part].tolist()
        for place, (symbol, bits, rank, seen, bits_of_entropy) in enumerate(
            zip(*columns, entropy, strict=True), line.place + begin
        ):
            row: Row = {"file": file, "line": line.line, "place": place, "character": spelled[symbol], "id": symbol}
            row |= {"bits": bits, "rank": rank, "seen": seen}
            yield row if bits_of_entropy is None else row | {"entropy": bits_of_entropy}


@dataclass
class FileTotals:
    """The sums over the lines of one file, newlines included, and its most surprising span, which is in one line."""

    alphabet: Alphabet
    span_length: int
    lines: int = 0
    characters: int = 0
    bits: float = 0.0
    ranks: int = 0
    entropy: float | None = None
    span: Row = field(default_factory=dict)
    last: tuple[int, int] = (0, -1)  # line and place of the last line

    def add(self, line: ScoredLine) -> None:
        self.lines, self.last = max(self.lines, line.line), (line.line, line.place)
        self.characters += len(line.ids_M)
        self.bits += float(line.bits_M.sum())
        self.ranks += int(line.ranks_M.sum())
        if line.entropy_M is not None:
            self.entropy = (self.entropy or 0.0) + float(line.entropy_M.sum())
        span = most_surprising_span(line.bits_M[: line.characters], self.span_length)
        if not self.span or span[2] > self.span["span_bits"]:
            self.span = {"span_line": line.line, **_span_entries(line, self.alphabet, self.span_length)}

    def row(self, file: str) -> Row:
        count = max(1, self.characters)
        row: Row = {"file": name_as_text(file), "lines": self.lines, "bits": self.bits, "characters": self.characters}
        row |= {"bits_per_character": self.bits / count, "rank": self.ranks / count, **self.span}
        return row if self.entropy is None else row | {"entropy": self.entropy / count}


class RowMaker:
    """Makes rows of one kind from scored lines. by: line, character or file."""

    def __init__(self, by: str, alphabet: Alphabet, span_length: int, with_entropy: bool) -> None:
        self.by, self.alphabet, self.span_length = by, alphabet, span_length
        columns = {"line": LINE_COLUMNS, "character": CHARACTER_COLUMNS, "file": FILE_COLUMNS}[by]
        self.columns = columns | ({"entropy": ENTROPY_COLUMN[by]} if with_entropy else {})
        self.spelled = spell_symbols(alphabet) if by == "character" else []
        self.file: tuple[str, FileTotals] | None = None

    def rows(self, lines: Sequence[ScoredLine]) -> Iterator[Row]:
        """Yields the rows that are complete with these lines."""
        make: Callable[[ScoredLine], Iterable[Row]] = {
            "line": lambda line: [line_row(line, self.alphabet, self.span_length)],
            "character": lambda line: character_rows(line, self.spelled),
            "file": self._add_to_file,
        }[self.by]
        return (row for line in lines for row in make(line))

    def last_rows(self) -> list[Row]:
        """The row of the last file."""
        return [] if self.file is None else [self.file[1].row(self.file[0])]

    def _add_to_file(self, line: ScoredLine) -> list[Row]:
        complete = []
        # Lines and places grow within a file; where they do not, the same name begins again, as of a file given twice.
        if self.file is None or self.file[0] != line.file or (line.line, line.place) <= self.file[1].last:
            complete = self.last_rows()
            self.file = line.file, FileTotals(self.alphabet, self.span_length)
        self.file[1].add(line)
        return complete


def _span_entries(line: ScoredLine, alphabet: Alphabet, length: int) -> Row:
    begin, end, bits = most_surprising_span(line.bits_M[: line.characters], length)
    text = _decode(alphabet, line.ids_M[begin:end])
    return {"span": text, "span_begin": begin, "span_end": end, "span_bits": bits}


def _decode(alphabet: Alphabet, ids: np.ndarray) -> str:
    """The text of symbols; U+FFFD for bytes that are not UTF-8."""
    return alphabet.decode(ids).decode("utf-8", "replace")
