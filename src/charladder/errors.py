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
