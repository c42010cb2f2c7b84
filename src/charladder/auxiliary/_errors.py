"""Exceptions of the library. A message is one sentence: which term, what is wrong, what to do."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import torch


class AuxiliaryError(ValueError):
    """A mistake in the use of this library. Its cause, where it has one, is an exception of torch or of the user."""


class NotFiniteError(AuxiliaryError):
    """A term that is NaN or infinite; `term` is its name. Raised before any gradient exists."""

    def __init__(self, message: str, term: str) -> None:
        super().__init__(message)
        self.term = term


def term_and_part(name: str, part: str | None = None) -> str:
    """What a message calls a term, or one of the named parts of its loss."""
    return f"term {name!r}" if part is None else f"term {name!r}, part {part!r}"


def first_line(error: Exception) -> str:
    """The first line of another exception's message, without its full stop, to quote at the end of a message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def call_named(what: str, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Calls a function that the user wrote; `what` names its term and its role.

    Raises AuxiliaryError with the function's exception as its cause.
    """
    try:
        return function(*arguments, **keywords)
    except Exception as error:
        if is_control_flow(error):
            raise
        raise raised_by(what, error) from error


def raised_by(what: str, error: Exception) -> AuxiliaryError:
    """The error to raise when a function that the user wrote has raised `error`."""
    if isinstance(error, AuxiliaryError):
        return AuxiliaryError(f"{what}: {first_line(error)}")
    message = f": {first_line(error)}" if str(error).strip() else ""
    return AuxiliaryError(f"{what} raised {type(error).__name__}{message}")


def is_control_flow(error: Exception) -> bool:
    """Whether callers must see this exception unchanged: out of memory, a loss that is not finite, and the private
    exceptions (`_...`) with which torch stops the recomputation of gradient checkpointing."""
    return isinstance(error, torch.OutOfMemoryError | NotFiniteError) or type(error).__name__.startswith("_")


def nearest(name: str, choices: Iterable[str]) -> str:
    """The end of a message about an unknown name: the most similar choices, or all of them if they are few."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    if close:
        return f"; the nearest are {', '.join(close)}"
    return f"; there are {', '.join(choices)}" if 0 < len(choices) <= 12 else ""
