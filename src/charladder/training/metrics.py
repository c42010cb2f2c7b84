"""metrics.jsonl: one JSON line a logged step, and one an evaluation.

Evaluations have `split`. They also have `part` where they scored a stretch of the valid part and not all of it, and
then `final` where this is the score at the end of a run and no validation on the way.
"""

import json
import math
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from charladder.atomic_io import write_text
from charladder.errors import DamagedDataWarning
from charladder.input_files import open_regular
from charladder.strict_json import dumps

_MAX_FILE_BYTES = 1 << 30  # of metrics.jsonl; a line has some hundreds
MAX_LINE_BYTES = 1 << 22  # bytes of a line
_MAX_NAMED_LINES = 5  # damaged lines that a sentence names


class Metrics:
    """Appends to `path`. After a resume at `step`, lines beyond it are dropped: they will be written again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= step]
            write_text(path, "".join(dumps(line) + "\n" for line in kept))
        self.file = path.open("a", encoding="utf-8", newline="\n")

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(dumps(line) + "\n")
        self.file.flush()

    def sync(self) -> None:
        """Flushes all lines to the disk, for a checkpoint that stands on them."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


class NullMetrics:
    """Metrics of a rank that does not write."""

    def write(self, line: dict[str, Any]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines. Damaged ones are left out, with a DamagedDataWarning warning that says how many and which.

    The bits of an evaluation that was not finite, which the file has as null, are NaN. A last line without its end is
    no damage: it is being written, or a crash cut it short. Raises UserError where the file is not a regular one, or is
    longer than any that a run writes.
    """
    lines, damaged = [], []
    with open_regular(path, _MAX_FILE_BYTES) as file:
        for place, line in enumerate(iter(lambda: _read_line(file), b""), 1):
            read = None
            with suppress(ValueError, RecursionError):
                read = json.loads(line.decode(errors="replace"))
            if isinstance(read, dict) and _is_valid_line(read):
                if "split" in read and read["bits_per_character"] is None:
                    read["bits_per_character"] = math.nan
                lines.append(read)
            elif line.endswith(b"\n"):
                damaged.append(place)
    if damaged:
        warnings.warn(_damage_message(path, damaged), DamagedDataWarning, stacklevel=2)
    return lines


def _read_line(file: IO[bytes]) -> bytes:
    """The next line; of one longer than MOST_LINE bytes no more than its end. Empty at the end of the file."""
    line = part = file.readline(MAX_LINE_BYTES)
    while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
        part = file.readline(MAX_LINE_BYTES)
        line = b"\n"
    return line


def _damage_message(path: Path, damaged: list[int]) -> str:
    """The sentence about damaged lines."""
    places = [str(place) for place in damaged[:_MAX_NAMED_LINES]]
    more = f" and {len(damaged) - _MAX_NAMED_LINES:,} more" if len(damaged) > _MAX_NAMED_LINES else ""
    if len(damaged) == 1:
        return f"line {places[0]} of {path} is damaged, and is left out"
    return f"{len(damaged):,} lines of {path} are damaged, and are left out: {', '.join(places)}{more}"


def _is_valid_line(line: Any) -> bool:
    """Whether a line is one that a run writes: a step with its terms, or an evaluation."""
    if not isinstance(line, dict) or type(line.get("step")) is not int or not is_number(line["step"]):
        return False
    if "split" in line:
        bits = line.get("bits_per_character", "")
        return is_number(line.get("trained_characters")) and (bits is None or is_number(bits))
    if "terms" not in line:
        return True
    terms = line["terms"]
    return (
        is_number(line.get("characters"))
        and isinstance(terms, dict)
        and "main" in terms
        and all(isinstance(term, dict) and is_number(term.get("bits")) for term in terms.values())
    )


def is_validation(line: dict[str, Any]) -> bool:
    """Whether a line is a validation on the way, which always scores the same stretch of the valid part; the score at
    the end of a run is none."""
    return "split" in line and bool(line.get("part")) and not line.get("final")


def is_number(value: Any) -> bool:
    """Whether a value is a number that a run can write: no integer of hundreds of digits, which no float can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)
