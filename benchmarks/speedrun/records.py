"""The results of the speedrun as CSV: a row for each seed of a verification, and their table as Markdown."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speedrun.task import TEXT_SHA256
from charladder.atomic_io import write_text
from charladder.errors import UserError
from charladder.studies.statistics import Estimate, estimate_mean

RESULTS = Path(__file__).parents[1] / "results" / "speedrun.csv"
SEEDS = 5  # of a record
COLUMNS: tuple[str, ...] = (
    "entry", "seconds", "seed", "bits_per_character", "characters", "context", "told_seconds", "process_seconds",
    "commit", "date", "processor", "cores", "system", "python", "charladder", "torch", "numpy", "text_sha256",
    "settings", "source",
)  # fmt: skip
_SAME = "entry", "seconds", "text_sha256", "settings", "source", "commit", "processor"  # of one verification
BEGIN = "<!-- The table is what `python -m benchmarks speedrun --table` prints. Do not edit it. -->"
END = "<!-- End of the table. -->"

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, none if there is no file. Raises UserError for a file that is not one of results."""
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
        rows = list(reader)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError("its columns are not those of results of the speedrun")
        for number, row in enumerate(rows, 2):
            if None in row or None in row.values() or not row["seed"].isdecimal():
                raise ValueError(f"row {number} is not complete")
            if not all(math.isfinite(float(row[name])) for name in ("seconds", "bits_per_character")):
                raise ValueError(f"row {number} has a number that is not finite")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}; give another --results") from None
    return rows


def append_row(path: Path, row: Row) -> None:
    """Adds a row. The file is replaced as a whole, so that it is never half written."""
    write_text(path, to_csv([*read_rows(path), row]))


def to_csv(rows: Sequence[Row]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def same_verification(rows: Sequence[Row], like: Row) -> list[Row]:
    """The rows of the same entry, task, commit and machine as `like`, by seed."""
    found = [row for row in rows if all(row[name] == like[name] for name in _SAME)]
    return sorted(found, key=lambda row: int(row["seed"]))


def estimate_bits(rows: Sequence[Row]) -> Estimate:
    """The mean of the bits per character of some rows, with its 95% interval."""
    estimate = estimate_mean([float(row["bits_per_character"]) for row in rows])
    assert estimate is not None
    return estimate


def format_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "one seed: none"
    return f"{estimate.low:.4f} to {estimate.high:.4f}"


def markdown_table(rows: Sequence[Row]) -> str:
    """A table for each number of seconds, the lowest mean first."""
    if not rows:
        return "No entry has been verified yet.\n"
    verifications = {id(group[0]): group for row in rows if (group := same_verification(rows, row))}
    lines: list[str] = []
    for seconds in sorted({float(row["seconds"]) for row in rows}, reverse=True):
        groups = [group for group in verifications.values() if float(group[0]["seconds"]) == seconds]
        lines += [
            f"### {seconds:g} seconds", "",
            "| entry | bits per character | 95% interval | each seed | machine | commit | date |",
            "|---|---|---|---|---|---|---|",
            *(_table_line(group) for group in sorted(groups, key=lambda group: estimate_bits(group).mean)), "",
        ]  # fmt: skip
    return "\n".join(lines)


def _table_line(group: Sequence[Row]) -> str:
    first, estimate = group[0], estimate_bits(group)
    notes = [] if first["text_sha256"] == TEXT_SHA256 else ["another text"]
    notes += [] if len(group) >= SEEDS else [f"{len(group)} of {SEEDS} seeds, no record"]
    notes += [first["source"]] if first["source"] else []
    entry = first["entry"] + (f" ({'; '.join(notes)})" if notes else "")
    bits = ", ".join(f"{float(row['bits_per_character']):.4f}" for row in group)
    machine = f"{first['processor']}, {first['cores']} cores"
    cells = entry, f"{estimate.mean:.4f}", format_interval(estimate), bits, machine, f"`{first['commit']}`"
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (*cells, group[-1]["date"])) + " |"


def fill_page(page: Path, rows: Sequence[Row]) -> None:
    """Puts the table between the marks of a page. Raises UserError for a page without them."""
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{page} cannot be read: {error}") from None
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page} has no place for the table; it needs the lines {BEGIN!r} and {END!r}")
    write_text(page, f"{before}{begin}\n{markdown_table(rows).rstrip()}\n\n{end}{after}")
