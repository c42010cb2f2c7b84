"""Errors that the user can fix, and functions that recognise errors of torch."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input that cannot be used. The command line prints it and exits with code 2; the HTTP service answers 400.

    problem: what is wrong; `{field} is {value}` where it is left out. field: the argument or configuration field that
    is wrong, such as `temperature` or `training.batch`. value: its value. rule: what a value must be, or what to do.
    """

    def __init__(
        self, problem: str | None = None, *, field: str | None = None, value: object = None, rule: str | None = None
    ) -> None:
        self.problem, self.field, self.value, self.rule = problem, field, value, rule
        super().__init__(self.sentence(field))

    def sentence(self, name: str | None) -> str:
        """The error in one sentence. name: what the reader calls the field."""
        problem = f"{name} is {_format_value(self.value)}" if self.problem is None else self.problem
        return problem if self.rule is None else f"{problem}; {self.rule}"


class DamagedDataWarning(UserWarning):
    """Part of an input is damaged and is skipped. The command line prints the message as a note."""


def _format_value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)


def suggest_names(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the most similar known one, or all of them if they are few."""
    known = sorted(known)
    close = closest_name(name, known)
    if close is not None:
        return f"; did you mean {close}?"
    return f"; known here: {', '.join(known)}" if len(known) <= 12 else ""


def closest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to `name`; None where none is similar."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)), None)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of Python or torch says that memory could not be allocated."""
    signs = "can't allocate memory", "out of memory", "not enough memory"
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def is_lost_rank(error: Exception) -> bool:
    """Whether an error of torch says that another process of the same job has ended."""
    return type(error).__name__ == "DistBackendError" or any(sign in str(error) for sign in ("gloo", "Gloo", "NCCL"))
