"""A table that is written to JSON lines or parquet, and appears when it is complete."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from charladder.atomic_io import atomic_write
from charladder.errors import UserError
from charladder.strict_json import dumps

WriteColumns = Callable[[Mapping[str, list]], None]


@contextmanager
def write_table(path: Path, columns: Mapping[str, str], field: str) -> Iterator[WriteColumns]:
    """Yields a function that takes the next rows, as lists by column.

    columns: the type of each in the words of pyarrow, such as `int64`, `float64`, `string` or `list<float>`. field: the
    argument that the path comes from, for errors. Raises UserError for a name that ends neither in .jsonl nor in
    .parquet, for a file that exists, for a folder that does not, and for parquet without pyarrow.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(field=field, value=path, rule="it must end in .jsonl or .parquet")
    if os.path.lexists(path):  # a link to nothing too
        raise UserError(f"{path} exists and is not overwritten", field=field, rule="choose another name")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}", field=field, rule="make it first")
    if path.suffix == ".parquet":
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
        types = {
            name: numbers if kind == "list<float>" else pyarrow.type_for_alias(kind) for name, kind in columns.items()
        }
        schema = pyarrow.schema(list(types.items()))
        with atomic_write(path) as part, parquet.ParquetWriter(part, schema) as writer:
            yield lambda values: writer.write_table(pyarrow.table(dict(values), schema))
        return
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:

        def write(values: Mapping[str, list]) -> None:
            for row in zip(*values.values(), strict=True):
                file.write(dumps(dict(zip(values, row, strict=True))) + "\n")

        yield write
