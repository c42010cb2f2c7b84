"""metrics.jsonl: one JSON line for each logged step and each evaluation.

Lines of evaluations have `split`. They have `part` if they scored a prefix of the valid part instead of all of it, and
also `final` if that is the score at the end of a run instead of a validation.
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

_MAX_FILE_BYTES = 1 << 30  # size limit of metrics.jsonl
MAX_LINE_BYTES = 1 << 22  # longer lines are damaged
_MAX_NAMED_LINES = 5  # damaged lines that a warning names


class Metrics:
    """Appends lines to `path`. Lines of steps after `step` are removed, because a resumed run writes them again."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            lines = [line for line in read_metrics(path) if line["step"] <= step]
            write_text(path, "".join(dumps(line) + "\n" for line in lines))
        self.file = path.open("a", encoding="utf-8", newline="\n")

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(dumps(line) + "\n")
        self.file.flush()

    def sync(self) -> None:
        """Flushes all lines to the disk; call it before a checkpoint is saved."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


class NullMetrics:
    """Metrics of other ranks than rank 0: writes nothing."""

    def write(self, line: dict[str, Any]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All valid lines. Damaged lines are skipped, with a DamagedDataWarning that names them.

    null as the bits of an evaluation, which stands for a score that was not finite, is read as NaN. An incomplete last
    line is skipped without a warning: another process is writing it, or a crash cut it off. Raises UserError if the
    file is not a regular file, or is larger than 1 GiB.
    """
    lines, damaged = [], []
    with open_regular(path, _MAX_FILE_BYTES) as file:
        for number, line in enumerate(iter(lambda: _read_line(file), b""), 1):
            entry = None
            with suppress(ValueError, RecursionError):
                entry = json.loads(line.decode(errors="replace"))
            if isinstance(entry, dict) and _is_valid_line(entry):
                if "split" in entry and entry["bits_per_character"] is None:
                    entry["bits_per_character"] = math.nan
                lines.append(entry)
            elif line.endswith(b"\n"):
                damaged.append(number)
    if damaged:
        warnings.warn(_damage_message(path, damaged), DamagedDataWarning, stacklevel=2)
    return lines


def _read_line(file: IO[bytes]) -> bytes:
    """The next line; an empty line in place of one longer than MAX_LINE_BYTES. No bytes at the end of the file."""
    line = part = file.readline(MAX_LINE_BYTES)
    while len(part) == MAX_LINE_BYTES and not part.endswith(b"\n"):
        part = file.readline(MAX_LINE_BYTES)
        line = b"\n"
    return line


def _damage_message(path: Path, damaged: list[int]) -> str:
    """The message of the warning about damaged lines."""
    numbers = [str(number) for number in damaged[:_MAX_NAMED_LINES]]
    more = f" and {len(damaged) - _MAX_NAMED_LINES:,} more" if len(damaged) > _MAX_NAMED_LINES else ""
    if len(damaged) == 1:
        return f"line {numbers[0]} of {path} is damaged, and is left out"
    return f"{len(damaged):,} lines of {path} are damaged, and are left out: {', '.join(numbers)}{more}"


def _is_valid_line(line: Any) -> bool:
    """Whether a line has the fields of a step or of an evaluation, with valid values."""
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
    """Whether a line is a validation and not a final score. All validations score the same prefix of the valid part."""
    return "split" in line and bool(line.get("part")) and not line.get("final")


def is_number(value: Any) -> bool:
    """Whether a value is a float, or an integer below 2^63, which a float can represent approximately."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)
