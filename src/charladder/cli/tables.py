"""Tables for terminals of any width: a table that does not fit is printed as a few lines for each row."""

import textwrap
from collections.abc import Container, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_MIN_WRAPPED_COLUMNS = 16
_GAP_COLUMNS = 2


class AdaptiveTable:
    """A table, printable by rich, that never truncates a cell.

    wrapped: names of the columns whose cells may be wrapped.
    """

    def __init__(self, *names: str, title: str = "", wrapped: Container[str] = ()) -> None:
        self.names, self.title, self.wrapped = names, title, wrapped
        self.rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Adds a row, with one cell for each column."""
        self.rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, style="italic")
        for headings in (list(self.names), [self._wrap_heading(column) for column in range(len(self.names))]):
            if self._table_width(headings) <= options.max_width:
                yield self._table(headings)
                return
        yield from self._row_lines(options.max_width)

    def _cell_width(self, column: int) -> int:
        """The width of the widest cell of a column; the smallest width of a wrapped column."""
        widest = max((row[column].cell_len for row in self.rows), default=0)
        return min(widest, _MIN_WRAPPED_COLUMNS) if self.names[column] in self.wrapped else widest

    def _wrap_heading(self, column: int) -> str:
        """A heading, wrapped to the width of the cells below it."""
        longest = max(map(len, self.names[column].split()), default=0)
        return "\n".join(textwrap.wrap(self.names[column], max(1, longest, self._cell_width(column))))

    def _table_width(self, headings: list[str]) -> int:
        """The width of the table with these headings."""
        headed = [max((len(line) for line in heading.split("\n")), default=0) for heading in headings]
        return sum(max(self._cell_width(column), head) for column, head in enumerate(headed)) + _GAP_COLUMNS * (
            len(headings) - 1
        )

    def _table(self, headings: list[str]) -> Table:
        table = Table(box=None, padding=(0, _GAP_COLUMNS, 0, 0), pad_edge=False, header_style="dim")
        for column, (name, heading) in enumerate(zip(self.names, headings, strict=True)):
            is_wrapped = name in self.wrapped
            table.add_column(
                Text(heading), justify="left" if column == 0 or is_wrapped else "right", no_wrap=not is_wrapped,
                overflow="fold" if is_wrapped else "ellipsis",  # words longer than a line are not cut off
            )  # fmt: skip
        for row in self.rows:
            table.add_row(*row)
        return table

    def _row_lines(self, width: int) -> Iterator[Text | Padding]:
        """Each row as a line with its first cell, and below it the other cells with their headings."""
        for first, *others in self.rows:
            yield Text(f"{self.names[0]} {first.plain}")
            pairs = [Text(f"{name} {cell.plain}") for name, cell in zip(self.names[1:], others, strict=True)]
            yield Padding(join_wrapped(pairs, ", ", width - _GAP_COLUMNS), (0, 0, 0, _GAP_COLUMNS))


def join_wrapped(parts: Sequence[Text], separator: str, width: int) -> Text:
    """Joins parts into lines of at most `width` columns; a part is only split if it is wider than a line."""
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
