"""The tables benchmarks/results/*.csv: a row for each run of a study, which `collect` writes and `forest` reads."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from charladder.atomic_io import write_text
from charladder.errors import UserError

RESULTS = Path(__file__).parent / "results"
COLUMNS = (
    "text", "text_sha256", "stage", "arm", "seed", "bits_per_character", "test_bits_per_character",
    "scored_characters", "trained_characters", "steps", "seconds", "learning_rate", "settings", "common_settings",
    "commit", "clean", "processor", "threads", "gpu", "versions",
)  # fmt: skip
_SCORES = "bits_per_character", "test_bits_per_character"

Row = dict[str, str]


def run_key(row: Row) -> tuple[str, str, str, int]:
    """Text, stage, arm and seed: what identifies a run, and the order of the rows. A table without stages has runs of
    the final stage."""
    return row["text"], row.get("stage", "final"), row["arm"], int(row["seed"])


def read_rows(path: Path, columns: Sequence[str] = COLUMNS) -> list[Row]:
    """The rows of a table; none if there is no such file. Raises UserError for another table."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}, is not CSV: {error}") from None
    if not lines or lines[0] != list(columns):
        raise UserError(f"{path} is not a table of runs: its first line must be {','.join(columns)}")
    rows = []
    for number, cells in enumerate(lines[1:], 2):
        if len(cells) != len(columns):
            raise UserError(f"{path}, row {number}, has {len(cells)} cells; it must have {len(columns)}")
        row = dict(zip(columns, cells, strict=True))
        _check_numbers(row, f"{path}, row {number}")
        rows.append(row)
    return rows


def _check_numbers(row: Row, where: str) -> None:
    if not row["seed"].isdecimal():
        raise UserError(f"{where}: the seed is {row['seed']!r}; it must be a whole number")
    for name in _SCORES:
        try:
            float(row.get(name) or 0)
        except ValueError:
            raise UserError(f"{where}: {name} is {row[name]!r}; it must be a number") from None


def merge_rows(old: Iterable[Row], new: Iterable[Row], path: Path) -> tuple[list[Row], int]:
    """The rows of a table and those of a study, sorted, and how many are new or have got a score of the test part.

    Raises UserError, with `path` for the message, for a run that has other bits than in the table.
    """
    rows = {run_key(row): row for row in old}
    changed = 0
    for row in new:
        key = run_key(row)
        known = rows.setdefault(key, row)
        changed += known is row
        for name in _SCORES:
            if known[name] and row[name] and float(known[name]) != float(row[name]):
                text, stage, arm, seed = key
                raise UserError(
                    f"{path} has a {stage} run of {arm!r}, seed {seed}, on {text} with {name} {known[name]}, and the "
                    f"study has {row[name]}; delete the row to replace it, or give another --name or --text"
                )
        if row["test_bits_per_character"] and not known["test_bits_per_character"]:
            rows[key] = {**known, "test_bits_per_character": row["test_bits_per_character"]}
            changed += 1
    return [rows[key] for key in sorted(rows)], changed


def write_rows(path: Path, rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Writes a table atomically."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())
