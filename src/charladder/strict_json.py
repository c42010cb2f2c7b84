"""JSON as RFC 8259 has it, which every parser reads: it has no NaN and no infinities."""

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """As json.dumps; numbers that are not finite are null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_replace_non_finite(value), allow_nan=False)


def find_non_finite(value: Any, name: str = "") -> str | None:
    """The name of the first number that is not finite, with points between the keys and places; None where all are.

    >>> not_finite({"bits": 2.5, "by_layer": [{"bits": float("inf")}]})
    'by_layer.0.bits'
    """
    if isinstance(value, float):
        return None if math.isfinite(value) else name
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    found = (find_non_finite(each, f"{name}.{key}" if name else str(key)) for key, each in items)
    return next((one for one in found if one is not None), None)


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _replace_non_finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(each) for each in value]
    return value
