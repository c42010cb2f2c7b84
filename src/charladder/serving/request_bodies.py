"""Bodies of requests: JSON whose structure is limited before it is parsed and validated."""

from typing import TypeVar

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from charladder.errors import suggest_names
from charladder.serving.api_errors import APIError
from charladder.serving.schemas import RequestModel, StreamOptions

_MIN_CHECKED_BYTES = 1 << 10  # a smaller body cannot be expensive
_MAX_STRUCTURES = 256  # lists and objects of a body, and keys of all its objects
Body = TypeVar("Body", bound=RequestModel)


def parse_body(data: bytes, model: type[Body]) -> Body:
    """A validated body. Time and memory are at most proportional to the size of `data`: a body of many small lists,
    objects or keys is refused before it is parsed, and the validation of a list ends at its first wrong item.

    Raises APIError for a body that is not a JSON object, or does not fit `model`.
    """
    check_structure(data)
    try:
        value = from_json(data)
    except ValueError as error:
        raise APIError(400, f"the body cannot be read as JSON: {error}; send an object, UTF-8") from None
    if not isinstance(value, dict):
        raise APIError(400, "the body is JSON, but not an object; send an object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise wrong_field(error, model) from None


def check_structure(data: bytes) -> None:
    """Raises APIError for more lists, objects or keys than a request can have. Characters in strings do not count."""
    if len(data) <= _MIN_CHECKED_BYTES:
        return
    plain = data.replace(rb"\\", b"__").replace(rb"\"", b"__")  # each remaining quote begins or ends a string
    data_N = np.frombuffer(plain, np.uint8)
    outside_N = np.cumsum(data_N == ord('"'), dtype=np.uint8) % 2 == 0
    for marks, what in (("[{", "lists and objects"), (":", "keys")):
        count = sum(int(np.count_nonzero((data_N == ord(mark)) & outside_N)) for mark in marks)
        if count > _MAX_STRUCTURES:
            raise APIError(400, f"the body has {count:,} {what}; send {_MAX_STRUCTURES} at most")


def wrong_field(error: ValidationError, model: type[RequestModel]) -> APIError:
    """An error for the first field that does not fit. Its message does not repeat the value."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    field = errors[0]["loc"][0]
    # A field of several types has an error for each. The deepest one is of the type that was meant.
    worst = max((item for item in errors if item["loc"][0] == field), key=lambda item: len(item["loc"]))
    if worst["type"] == "extra_forbidden":
        known = model if len(worst["loc"]) == 1 else StreamOptions
        name = printable(worst["loc"][-1])
        return APIError(400, f"there is no field {name!r}{suggest_names(name, known.model_fields)}", name)
    name = printable(field)
    if worst["type"] == "missing":
        return APIError(400, f"the field {name!r} is missing; send it", name)
    reason = worst["msg"].lower().replace(" after validation", "")
    return APIError(400, f"the field {name!r} does not fit: {reason}", name)


def printable(part: str | int) -> str:
    return str(part).encode("utf-8", "replace").decode()[:60]
