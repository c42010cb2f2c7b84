"""The number of predictions of a term, by which its sum of losses is divided.

The first of these that there is: Term(count=...); the sum of the mask; the divisor of a torch loss (_mean_divisors.py);
the number of elements of the target that are not -100.
"""

import math
import numbers
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, call_named, nearest, term_and_part
from charladder.auxiliary._mean_divisors import loss_option, may_ignore_labels, mean_divisor, returns_mean
from charladder.auxiliary._select import is_mapping
from charladder.auxiliary._target_sources import TargetSource
from charladder.auxiliary._term import Term

IGNORE_INDEX = -100
Count = float | Tensor
# Of a term whose loss returns named parts: a number for all parts, or one for each by name.
PartCounts = Count | Mapping[str, Count]


class TargetCounts(dict[str, PartCounts]):
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


def count_of(name: str, term: Term, target: Any, mask: Tensor | None = None) -> PartCounts | None:
    """The number of predictions of term `name` for this target; None if it is not known.

    Raises AuxiliaryError that names the term if its count is no number, or a function that raises.
    """
    if mask is None and term.count is not None:
        return _given_count(name, term.count, target)
    where = weight_mask(term, target, mask)
    if mask is not None:
        return None if where is None else count_of_mask(where)
    if not isinstance(target, Tensor):
        return None
    if returns_mean(term.loss):
        return mean_divisor(term.loss, target, where)
    return target.numel() if where is None else where.sum()


def count_of_mask(where: Tensor) -> Tensor:
    """The number of elements that a mask keeps, or the sum of its weights."""
    return where.sum(dtype=_wide_dtype(where)) if where.is_floating_point() else where.count_nonzero()


def count_of_part(name: str, counts: PartCounts, part: str | None) -> Count:
    """The count of one part of term `name`; part: None for a loss without parts.

    Raises AuxiliaryError if the counts are those of other parts.
    """
    if not isinstance(counts, Mapping):
        return counts
    if part is None:
        raise AuxiliaryError(f"term {name!r}: its count has parts, and its loss returned none; give one number")
    if part not in counts:
        raise AuxiliaryError(f"term {name!r}: its count lacks the part {part!r}{nearest(part, counts)}")
    return counts[part]


def add_counts(one: PartCounts, other: PartCounts) -> PartCounts:
    """The sum of the counts of one term in two batches; part by part, if they have parts."""
    if not isinstance(one, Mapping) and not isinstance(other, Mapping):
        return one + other
    names = dict.fromkeys(part for counts in (one, other) if isinstance(counts, Mapping) for part in counts)
    return {part: _part_or_all(one, part) + _part_or_all(other, part) for part in names}


def _part_or_all(counts: PartCounts, part: str) -> Count:
    return counts.get(part, 0) if isinstance(counts, Mapping) else counts


def _given_count(name: str, count: Any, target: Any) -> PartCounts:
    """The value of Term(count=...)."""
    value = call_named(f"term {name!r}: its count function", count, target) if callable(count) else count
    if is_mapping(value):
        return {part: _checked_count(name, number) for part, number in value.items()}
    return _checked_count(name, value)


def _checked_count(name: str, value: Any) -> Count:
    """A count that the user gave. A tensor's value is not checked, because reading it would wait for its device."""
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


def count_targets(name: str, term: Term, target: Any, mask: Tensor | None) -> PartCounts:
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


def unknown_count(name: str, part: str | None = None) -> AuxiliaryError:
    """The error to raise where a count is needed, and the loss of a term has returned a scalar of unknown count."""
    return AuxiliaryError(
        f"{term_and_part(name, part)}: its loss returned one scalar, and of how many predictions it is the mean is not "
        "known, which micro-batches and several processes need; give Term(count=...), or let the loss return a pair "
        "(sum, count) or a value per element (reduction='none')"
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
