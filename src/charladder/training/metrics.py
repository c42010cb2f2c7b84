"""metrics.jsonl: one JSON line a logged step, and one an evaluation.

Evaluations have `split`. They also have `part` where they scored a stretch of the valid part and not all of it, and
then `final` where this is the score at the end of a run and no validation on the way.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from charladder.atomic import write_text
from charladder.strict_json import dumps


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


class Silent:
    """Metrics of a rank that does not write."""

    def write(self, line: dict[str, Any]) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; what a crash cut short, or anything else damaged, is left out. The bits of an evaluation that
    was not finite, which the file has as null, are NaN."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            read = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if whole(read):
            if "split" in read and read["bits_per_character"] is None:
                read["bits_per_character"] = math.nan
            lines.append(read)
    return lines


def whole(line: Any) -> bool:
    """Whether a line is one that a run writes: a step with its terms, or an evaluation."""
    if not isinstance(line, dict) or type(line.get("step")) is not int or not number(line["step"]):
        return False
    if "split" in line:
        bits = line.get("bits_per_character", "")
        return number(line.get("trained_characters")) and (bits is None or number(bits))
    if "terms" not in line:
        return True
    terms = line["terms"]
    return (
        number(line.get("characters"))
        and isinstance(terms, dict)
        and "main" in terms
        and all(isinstance(term, dict) and number(term.get("bits")) for term in terms.values())
    )


def is_validation(line: dict[str, Any]) -> bool:
    """Whether a line is a validation on the way, which always scores the same stretch of the valid part; the score at
    the end of a run is none."""
    return "split" in line and bool(line.get("part")) and not line.get("final")


def number(value: Any) -> bool:
    """Whether a value is a number that a run can write: no integer of hundreds of digits, which no float can hold."""
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)
