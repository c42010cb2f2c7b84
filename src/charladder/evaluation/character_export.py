"""Export of the bits of every character, as JSON lines or parquet."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from charladder.evaluation.sliding_window import ScoredCharacters
from charladder.evaluation.table_file import write_table
from charladder.text import Alphabet

COLUMNS = {
    "place": "int64", "character": "string", "id": "int32", "bits": "float64", "rank": "int32", "seen": "int32",
}  # fmt: skip


@contextmanager
def export_characters(
    path: Path, alphabet: Alphabet, ids_N: np.ndarray
) -> Iterator[Callable[[ScoredCharacters], None]]:
    """Yields a function that writes scored characters to `path`, in the order of the text.

    Columns: position in the text, the character, its id, its bits, the number of symbols with a higher probability, and
    the number of characters it was predicted from. A byte that is not UTF-8 by itself has the character U+FFFD. The
    file appears when it is complete. Raises UserError as `write_table`.
    """
    spelled = spell_symbols(alphabet)
    with write_table(path, COLUMNS, "export") as write:

        def write_scored(scored: ScoredCharacters) -> None:
            ids = ids_N[scored.positions_M].tolist()
            bits = (scored.nats_M / math.log(2)).tolist()
            values = scored.positions_M.tolist(), [spelled[one] for one in ids], ids, bits
            write(dict(zip(COLUMNS, (*values, scored.ranks_M.tolist(), scored.context_M.tolist()), strict=True)))

        yield write_scored


def spell_symbols(alphabet: Alphabet) -> list[str]:
    """The character of each symbol; U+FFFD for a byte that is not UTF-8 by itself."""
    return [alphabet.decode(np.array([symbol])).decode("utf-8", "replace") for symbol in range(alphabet.size)]
