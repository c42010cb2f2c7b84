"""The tables benchmarks/results/*.csv: a row for each run of a study, which `collect` writes and `forest` reads."""

import csv
import io
import re
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
STAGES = {"final": ".", "sweep": "sweep"}  # stage of a row: folder of its runs in that of the study
_SCORES = "bits_per_character", "test_bits_per_character"

Row = dict[str, str]


def run_key(row: Row) -> tuple[str, str, str, int]:
    """Text, stage, arm and seed: what identifies a run, and the order of the rows. A table without stages has runs of
    the final stage."""
    return row["text"], row.get("stage", "final"), row["arm"], int(row["seed"])


def read_rows(path: Path, columns: Sequence[str] = COLUMNS) -> list[Row]:
    """The rows of a table; none if there is no such file. Raises UserError for another table."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
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
        if not cells:
            continue  # an empty line
        if len(cells) != len(columns):
            raise UserError(f"{path}, row {number}, has {len(cells)} cells; it must have {len(columns)}")
        row = dict(zip(columns, cells, strict=True))
        _check_cells(row, f"{path}, row {number}")
        rows.append(row)
    if "stage" in columns:
        _check_runs(rows, path)
    return rows


def _check_cells(row: Row, where: str) -> None:
    if not re.fullmatch(r"[0-9]{1,20}", row["seed"]):
        raise UserError(f"{where}: the seed is {row['seed']!r}; it must be a whole number")
    if row.get("stage", "final") not in STAGES:
        raise UserError(f"{where}: the stage is {row['stage']!r}; it must be {' or '.join(STAGES)}")
    for name in _SCORES:
        try:
            float(row.get(name) or 0)
        except ValueError:
            raise UserError(f"{where}: {name} is {row[name]!r}; it must be a number") from None


def _check_runs(rows: Iterable[Row], path: Path) -> None:
    """Raises UserError for a run that is in the table twice, and for two texts of one name."""
    keys: set[tuple[str, str, str, int]] = set()
    for row in rows:
        if (key := run_key(row)) in keys:
            text, stage, arm, seed = key
            raise UserError(f"{path} has the {stage} run of {arm!r}, seed {seed}, on {text} twice; delete one row")
        keys.add(key)
    check_texts(rows, path)


def check_texts(rows: Iterable[Row], path: Path, known: dict[str, str] | None = None) -> None:
    """Raises UserError for two texts of one name, whose runs would be paired. known: SHA-256 by name of other rows,
    which gets those of these rows."""
    known = {} if known is None else known
    for row in rows:
        name, sha256 = row["text"], row["text_sha256"]
        if sha256 and known.setdefault(name, sha256) != sha256:
            raise UserError(
                f"{path} has runs of a text {name!r} that is not the one of other runs, by its SHA-256; collect one of "
                "the studies with --text, under another name"
            )


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
    merged = [rows[key] for key in sorted(rows)]
    check_texts(merged, path)
    return merged, changed


def write_rows(path: Path, rows: Iterable[Row], columns: Sequence[str] = COLUMNS) -> None:
    """Writes a table atomically."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())
