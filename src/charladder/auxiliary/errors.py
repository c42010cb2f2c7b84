"""What the library raises: one sentence that names the term, says what is wrong and what to do."""

import difflib
from collections.abc import Iterable


class AuxiliaryError(ValueError):
    """A mistake in the use of this library. Its cause, where it has one, is the exception of torch."""


class NotFiniteError(AuxiliaryError):
    """A term that is NaN or infinite; `term` is its name. Raised before any gradient exists."""

    def __init__(self, message: str, term: str) -> None:
        super().__init__(message)
        self.term = term


def first_line(error: Exception) -> str:
    """What an exception of somebody else's says, as the end of a sentence of ours."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, or all of them where they are few."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; the nearest are {', '.join(close)}"
    return f"; there are {', '.join(known)}" if 0 < len(known) <= 12 else ""
