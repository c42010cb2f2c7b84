"""JSON as RFC 8259 has it, which every parser reads: it has no NaN and no infinities."""

import json
import math
from typing import Any


def dumps(value: Any) -> str:
    """As json.dumps; numbers that are not finite are null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(value), allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return value
