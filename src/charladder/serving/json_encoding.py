"""Large answers as JSON: encoded in pieces, so that other threads get their turn in between."""

from collections.abc import Iterator
from typing import Any

from charladder.strict_json import dumps

MAX_NUMBERS_PER_CALL = 2000  # numbers of a list, which take about a millisecond


def encode_json(value: Any) -> bytes:
    """The JSON of dicts and lists, in UTF-8. Python's encoder holds the interpreter lock for as long as one call takes,
    and the answer to a text of 100,000 characters has millions of numbers."""
    return "".join(_pieces(value)).encode()


def _pieces(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for number, (name, each) in enumerate(value.items()):
            yield ("{" if number == 0 else ", ") + dumps(name) + ": "
            yield from _pieces(each)
        yield "}" if value else "{}"
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for number, each in enumerate(value):
            yield "[" if number == 0 else ", "
            yield from _pieces(each)
        yield "]"
    elif isinstance(value, list) and len(value) > MAX_NUMBERS_PER_CALL:
        parts = (value[begin : begin + MAX_NUMBERS_PER_CALL] for begin in range(0, len(value), MAX_NUMBERS_PER_CALL))
        for number, part in enumerate(parts):
            yield ("[" if number == 0 else ", ") + dumps(part)[1:-1]
        yield "]"
    else:
        yield dumps(value)
