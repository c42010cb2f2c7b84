"""Tables that are readable on a terminal of any width: where one does not fit, each of its rows becomes a few lines."""

import textwrap
from collections.abc import Container, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_MIN_WRAPPED_COLUMNS = 16  # columns that a cell of prose needs at least
_GAP_COLUMNS = 2  # columns between cells


class AdaptiveTable:
    """A table that is printed with rich, and never cuts a cell.

    prose: names of the columns whose cells may be broken into several lines.
    """

    def __init__(self, *names: str, title: str = "", wrapped: Container[str] = ()) -> None:
        self.names, self.title, self.wrapped = names, title, wrapped
        self.rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """A row, with a cell for each column."""
        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="italic")
        for headings in (list(self.names), [self._wrap_heading(place) for place in range(len(self.names))]):
            if self._table_width(headings) <= options.max_width:
                yield self._table(headings)
                return
        yield from self._row_lines(options.max_width)

    def _cell_width(self, place: int) -> int:
        """The width of the widest cell of a column; of prose what it needs at least."""
        widest = max((row[place].cell_len for row in self.rows), default=0)
        return min(widest, _MIN_WRAPPED_COLUMNS) if self.names[place] in self.wrapped else widest

    def _wrap_heading(self, place: int) -> str:
        """A heading on as many lines as its column is narrow."""
        longest = max(map(len, self.names[place].split()), default=0)
        return "\n".join(textwrap.wrap(self.names[place], max(1, longest, self._cell_width(place))))

    def _table_width(self, headings: list[str]) -> int:
        """The width that a table needs."""
        headed = [max((len(line) for line in heading.split("\n")), default=0) for heading in headings]
        return sum(max(self._cell_width(place), head) for place, head in enumerate(headed)) + _GAP_COLUMNS * (
            len(headings) - 1
        )

    def _table(self, headings: list[str]) -> Table:
        table = Table(box=None, padding=(0, _GAP_COLUMNS, 0, 0), pad_edge=False, header_style="dim")
        for place, (name, heading) in enumerate(zip(self.names, headings, strict=True)):
            left = place == 0 or name in self.wrapped
            table.add_column(Text(heading), justify="left" if left else "right", no_wrap=name not in self.wrapped)
        for row in self.rows:
            table.add_row(*row)
        return table

    def _row_lines(self, width: int) -> Iterator[Text | Padding]:
        """Each row as the name and the cell of its first column, and below those of the others."""
        for first, *others in self.rows:
            yield Text(f"{self.names[0]} {first.plain}")
            pairs = [Text(f"{name} {cell.plain}") for name, cell in zip(self.names[1:], others, strict=True)]
            yield Padding(join_wrapped(pairs, ", ", width - _GAP_COLUMNS), (0, 0, 0, _GAP_COLUMNS))


def join_wrapped(parts: Sequence[Text], separator: str, width: int) -> Text:
    """Parts on lines of at most `width` columns; none is broken unless it alone is wider."""
    flowing, used = Text(), 0
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if used and used + len(separator) + part.cell_len + (0 if last else len(separator.rstrip())) > width:
            flowing.append(separator.rstrip() + "\n")
            used = 0
        elif used:
            flowing.append(separator)
            used += len(separator)
        flowing.append_text(part)
        used += part.cell_len
    return flowing
