"""Export of the bits of every character, as JSON lines or parquet."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from charladder.atomic_io import atomic_write
from charladder.errors import UserError
from charladder.evaluation.sliding_window import ScoredCharacters
from charladder.strict_json import dumps
from charladder.text import Alphabet

COLUMNS = ("place", "character", "id", "bits", "rank", "seen")


@contextmanager
def export_characters(
    path: Path, alphabet: Alphabet, ids_N: np.ndarray
) -> Iterator[Callable[[ScoredCharacters], None]]:
    """Yields a function that writes scored characters to `path`, in the order of the text.

    Columns: position in the text, the character, its id, its bits, the number of symbols with a higher probability, and
    the number of characters it was predicted from. A byte that is not UTF-8 by itself has the character U+FFFD. The
    file appears when it is complete. Raises UserError for a name that ends neither in .jsonl nor in .parquet, for a
    file that exists, and for parquet without pyarrow.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise UserError(field="export", value=path, rule="it must end in .jsonl or .parquet")
    if path.exists():
        raise UserError(f"{path} exists and is not overwritten", field="export", rule="choose another name")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}", field="export", rule="make it first")
    spelled = [alphabet.decode(np.array([one])).decode("utf-8", "replace") for one in range(alphabet.size)]

    def columns(scored: ScoredCharacters) -> dict[str, list]:
        ids = ids_N[scored.positions_M].tolist()
        bits = (scored.nats_M / math.log(2)).tolist()
        values = scored.positions_M.tolist(), [spelled[one] for one in ids], ids, bits
        return dict(zip(COLUMNS, (*values, scored.ranks_M.tolist(), scored.context_M.tolist()), strict=True))

    if path.suffix == ".parquet":
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise UserError(
                "parquet needs pyarrow, which is not installed",
                field="export",
                rule='install it with pip install "charladder[parquet]", or choose a name in .jsonl',
            ) from None
        kinds = (
            pyarrow.int64(), pyarrow.string(), pyarrow.int32(), pyarrow.float64(), pyarrow.int32(), pyarrow.int32(),
        )  # fmt: skip
        schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
        with atomic_write(path) as part, parquet.ParquetWriter(part, schema) as writer:
            yield lambda scored: writer.write_table(pyarrow.table(columns(scored), schema))
        return
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:

        def write(scored: ScoredCharacters) -> None:
            for row in zip(*columns(scored).values(), strict=True):
                file.write(dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")

        yield write
