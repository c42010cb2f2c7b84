"""The number of predictions of a term: what its sum of losses is divided by.

From Term(count=...); else from the mask; else the divisor of a torch loss (_mean_divisors.py); else the elements of the
target that are not -100.
"""

import math
import numbers
from typing import Any, TypeGuard

import torch
from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, call_named
from charladder.auxiliary._mean_divisors import loss_option, may_ignore_labels, mean_divisor, returns_mean
from charladder.auxiliary._target_sources import TargetSource
from charladder.auxiliary._term import Term

IGNORE_INDEX = -100
Count = float | Tensor


class TargetCounts(dict[str, Count]):
    """Counts from `objective.counts`: from the targets alone, before any loss was called."""


def is_integer(target: Any) -> TypeGuard[Tensor]:
    """Whether a target is a tensor of integers, such as labels."""
    return isinstance(target, Tensor) and not target.is_floating_point() and target.dtype != torch.bool


def weight_mask(term: Term, target: Any, mask: Tensor | None) -> Tensor | None:
    """Which predictions count, as booleans, or with which weight, as floating-point numbers; None for all."""
    if not is_integer(target) or not may_ignore_labels(term.loss):
        return mask
    index = loss_option(term.loss, "ignore_index")
    ignored = IGNORE_INDEX if index is None else index
    if ignored < 0 and not target.dtype.is_signed:
        return mask  # the target cannot have this number
    if mask is None:
        return target != ignored
    return mask * (target != ignored) if mask.shape == target.shape else mask


def count_of(name: str, term: Term, target: Any, mask: Tensor | None = None) -> Count | None:
    """The number of predictions of term `name` for this target; None if it is not known.

    Raises AuxiliaryError that names the term if its count is no number, or a function that raises.
    """
    if mask is None and term.count is not None:
        return _given_count(name, term.count, target)
    where = weight_mask(term, target, mask)
    if mask is not None:
        if where is None:
            return None
        return where.sum(dtype=_wide_dtype(where)) if where.is_floating_point() else where.count_nonzero()
    if not isinstance(target, Tensor):
        return None
    if returns_mean(term.loss):
        return mean_divisor(term.loss, target, where)
    return target.numel() if where is None else where.sum()


def _given_count(name: str, count: Any, target: Any) -> Count:
    """The value of Term(count=...). A tensor's value is not checked, because reading it would wait for its device."""
    value = call_named(f"term {name!r}: its count function", count, target) if callable(count) else count
    if isinstance(value, Tensor):
        valid = value.numel() == 1
    else:
        valid = isinstance(value, numbers.Real) and 0 <= float(value) < math.inf
    if not valid:
        raise AuxiliaryError(f"term {name!r}: its count is {value!r}; it must be a number of predictions, at least 0")
    return value if isinstance(value, Tensor) else float(value)


def knows_scalar_count(term: Term) -> bool:
    """Whether the number of predictions behind a scalar is known, when the loss of a term returns one."""
    return term.count is not None or returns_mean(term.loss)


def count_targets(name: str, term: Term, target: Any, mask: Tensor | None) -> Count:
    """`count_of` before the loss is called. Raises AuxiliaryError if the count is not known."""
    count = count_of(name, term, target, mask)
    if count is None:
        kind, of = "no target" if target is None else f"a target of type {type(target).__name__}", "the target"
        if isinstance(term.target, TargetSource):
            kind, of = "a target that is not in the data", "targets"
        raise AuxiliaryError(
            f"term {name!r} has {kind}, from which its number of predictions is not known; give Term(count=...), a "
            f"number or a function of {of}"
        )
    return count


def to_exact(count: Count) -> Count:
    """A count to calculate with, in float64: torch divides integers in float32, too rough for a float64 loss."""
    return count.to(_wide_dtype(count)) if isinstance(count, Tensor) else count


def _wide_dtype(tensor: Tensor) -> torch.dtype:
    """float64, unless the device does not have it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def unknown_count(name: str) -> AuxiliaryError:
    """The error to raise where a count is needed, and the loss of a term has returned a scalar of unknown count."""
    return AuxiliaryError(
        f"term {name!r}: its loss returned one scalar, and of how many predictions it is the mean is not known, which "
        "micro-batches and several processes need; give Term(count=...), or let the loss return a pair (sum, count) or "
        "a value per element (reduction='none')"
    )


def is_zero(count: Count) -> bool | Tensor:
    """Whether there is nothing to predict; a tensor if the value of the count cannot be read without a delay."""
    return float(count) == 0 if not isinstance(count, Tensor) or is_readable(count) else count == 0


def is_readable(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be read now: not on an accelerator, which would have to finish its work, and
    not while torch.compile traces the step, whose graph would break."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def replace_zero(count: Count) -> Count:
    """The count, or 1 instead of 0, so that a term with nothing to predict adds 0 and not NaN."""
    number = to_exact(count)
    return torch.where(number == 0, 1, number) if isinstance(number, Tensor) else number or 1
