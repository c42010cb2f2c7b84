"""The one exception for everything a person can mend: bad input, said in one sentence."""

import difflib
from collections.abc import Iterable


class BadInput(Exception):
    """Input that cannot be used. The message is one sentence: what is wrong, where, and what to do.

    The command line prints it and leaves with exit code 2; the library raises it.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known ones, or all of them if few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(known)}" if len(known) <= 12 else ""


def out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch says that memory was refused."""
    signs = "can't allocate memory", "out of memory", "not enough memory"
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def lost_rank(error: Exception) -> bool:
    """Whether an error of torch says that another process of the same job is gone."""
    return type(error).__name__ == "DistBackendError" or any(sign in str(error) for sign in ("gloo", "Gloo", "NCCL"))
