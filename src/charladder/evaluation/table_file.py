"""A table that is written to JSON lines or parquet, and appears when it is complete."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from charladder.atomic_io import FileAppeared, atomic_write
from charladder.errors import UserError
from charladder.strict_json import dumps

WriteColumns = Callable[[Mapping[str, list]], None]


@contextmanager
def write_table(path: Path, columns: Mapping[str, str], field: str) -> Iterator[WriteColumns]:
    """Yields a function that takes the next rows, as lists by column.

    columns: the type of each in the words of pyarrow, such as `int64`, `float64`, `string` or `list<float>`. field: the
    argument that the path comes from, for errors. Raises UserError for a name that ends neither in .jsonl nor in
    .parquet, for a file that exists, for a folder that does not, for parquet without pyarrow, and where the file cannot
    be written. If another file has appeared at `path` at the end, it stays, and the error names the file with the rows.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(field=field, value=path, rule="it must end in .jsonl or .parquet")
    if os.path.lexists(path):  # a link to nothing too
        raise UserError(f"{path} exists and is not overwritten", field=field, rule="choose another name")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}", field=field, rule="make it first")
    open_rows = _open_parquet(columns, field) if path.suffix == ".parquet" else _open_json_lines
    caller_error = None
    try:
        with atomic_write(path, overwrite=False) as part, open_rows(part) as write_rows:

            def write(values: Mapping[str, list]) -> None:
                try:
                    write_rows(values)
                except OSError as error:
                    raise _write_error(path, field, error) from None

            try:
                yield write
            except OSError as error:
                caller_error = error
                raise
    except OSError as error:
        if error is caller_error:
            raise
        raise _write_error(path, field, error) from None


def _write_error(path: Path, field: str, error: OSError) -> UserError:
    if isinstance(error, FileAppeared):
        return UserError(str(error), field=field)
    return UserError(f"{path} cannot be written: {error.strerror or error}", field=field)


@contextmanager
def _open_json_lines(path: Path) -> Iterator[WriteColumns]:
    with path.open("w", encoding="utf-8") as file:

        def write(values: Mapping[str, list]) -> None:
            for row in zip(*values.values(), strict=True):
                file.write(dumps(dict(zip(values, row, strict=True))) + "\n")

        yield write


def _open_parquet(columns: Mapping[str, str], field: str) -> Callable[[Path], AbstractContextManager[WriteColumns]]:
    """The function that opens a file with these columns. Raises UserError without pyarrow."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            "parquet needs pyarrow, which is not installed",
            field=field,
            rule='install it with pip install "charladder[parquet]", or choose a name in .jsonl',
        ) from None
    numbers = pyarrow.list_(pyarrow.float32())
    types = {name: numbers if kind == "list<float>" else pyarrow.type_for_alias(kind) for name, kind in columns.items()}
    schema = pyarrow.schema(list(types.items()))

    @contextmanager
    def open_rows(path: Path) -> Iterator[WriteColumns]:
        with parquet.ParquetWriter(path, schema) as writer:
            yield lambda values: writer.write_table(pyarrow.table(dict(values), schema))

    return open_rows
