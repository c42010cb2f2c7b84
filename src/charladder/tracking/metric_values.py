"""A line of metrics.jsonl as named numbers."""

import math
from typing import Any

_PLACE = "step", "trained_characters"  # where an evaluation is, not what it found


def line_kind(line: dict[str, Any]) -> str | None:
    """`training`, `validation` or `score`; None for a line that has only the time of a step, which is not tracked."""
    if "split" in line:
        return "validation" if line.get("part") and not line.get("final") else "score"
    return "training" if "terms" in line or "skipped" in line else None


def metric_values(line: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a line by name.

    A step has the names of the line, such as `total` and `gradient_norm`, and of each term `bits/NAME`, `weight/NAME`
    and `share/NAME`. A step that was left out has `skipped`, which is 1. The numbers of a validation are called
    `valid/NAME`, those of the score at the end `score/NAME`, those of a diagnosis `diagnosis/...`.
    """
    kind = line_kind(line)
    if kind != "training":
        prefix = "valid" if kind == "validation" else "score"
        return _numbers({name: value for name, value in line.items() if name not in _PLACE}, f"{prefix}/")
    values = _numbers({name: value for name, value in line.items() if name not in ("step", "terms", "skipped")})
    if "skipped" in line:
        values["skipped"] = 1.0
    for name, term in line.get("terms", {}).items():
        values |= {f"{what}/{name}": value for what, value in _numbers(term).items()}
    return values


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers in nested tables; the names of the tables are joined with `/`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            found[f"{prefix}{name}"] = float(value)
    return found
