"""JSON according to RFC 8259, which has no NaN and no infinities."""

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """As json.dumps, with null for numbers that are not finite."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_replace_non_finite(value), allow_nan=False)


def find_non_finite(value: Any, name: str = "") -> str | None:
    """The path of the first number that is not finite, as keys and indices joined by dots; None if all are finite.

    >>> find_non_finite({"bits": 2.5, "by_layer": [{"bits": float("inf")}]})
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
