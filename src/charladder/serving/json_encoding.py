"""JSON of large answers, encoded in parts so that other threads can run in between."""

from collections.abc import Iterator
from typing import Any

from charladder.strict_json import dumps

MAX_NUMBERS_PER_CALL = 2000  # take about a millisecond


def encode_json(value: Any) -> bytes:
    """The JSON of dicts and lists, in UTF-8. One call of Python's encoder holds the interpreter lock until it returns,
    and the answer to a text of 100,000 characters has millions of numbers."""
    return "".join(_parts(value)).encode()


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for number, (name, each) in enumerate(value.items()):
            yield ("{" if number == 0 else ", ") + dumps(name) + ": "
            yield from _parts(each)
        yield "}" if value else "{}"
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for number, each in enumerate(value):
            yield "[" if number == 0 else ", "
            yield from _parts(each)
        yield "]"
    elif isinstance(value, list) and len(value) > MAX_NUMBERS_PER_CALL:
        parts = (value[begin : begin + MAX_NUMBERS_PER_CALL] for begin in range(0, len(value), MAX_NUMBERS_PER_CALL))
        for number, part in enumerate(parts):
            yield ("[" if number == 0 else ", ") + dumps(part)[1:-1]
        yield "]"
    else:
        yield dumps(value)
