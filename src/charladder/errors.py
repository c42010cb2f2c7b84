"""The one exception for everything a person can mend: bad input, said in one sentence."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input that cannot be used. The message is one sentence: what is wrong, where, and what to do.

    The command line prints it and leaves with exit code 2; the library raises it.
    """


class DataLeftOut(UserWarning):
    """A part of an input is damaged and is left out. The command line prints the message as a note."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, or all of them if few."""
    known = sorted(known)
    close = closest(name, known)
    if close is not None:
        return f"; did you mean {close}?"
    return f"; known here: {', '.join(known)}" if len(known) <= 12 else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`; None where none is alike."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)), None)


def out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch says that memory was refused."""
    signs = "can't allocate memory", "out of memory", "not enough memory"
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def lost_rank(error: Exception) -> bool:
    """Whether an error of torch says that another process of the same job is gone."""
    return type(error).__name__ == "DistBackendError" or any(sign in str(error) for sign in ("gloo", "Gloo", "NCCL"))
