"""How many predictions a loss stands for: what every term is divided by, once.

Said by Term(count=...); else what the mask keeps, else what a loss of torch divides by (_torch_losses.py), else the
elements of the target that are not -100.
"""

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, call_named
from charladder.auxiliary._term import Term
from charladder.auxiliary._torch_losses import averages, divisor, ignores_labels, option

IGNORE_INDEX = -100
Count = float | Tensor


class TargetCounts(dict[str, Count]):
    """Counts that were taken from targets alone, before any loss was seen."""


def is_integer(target: Any) -> bool:
    return isinstance(target, Tensor) and not target.is_floating_point() and target.dtype != torch.bool


def weight_mask(term: Term, target: Any, mask: Tensor | None) -> Tensor | None:
    """Where a prediction counts, as booleans, or how much, as floating-point numbers; None where all do."""
    if not is_integer(target) or not ignores_labels(term.loss):
        return mask
    own = option(term.loss, "ignore_index")
    ignored = IGNORE_INDEX if own is None else own
    if ignored < 0 and not target.dtype.is_signed:
        return mask  # no such number can be there
    if mask is None:
        return target != ignored
    return mask * (target != ignored) if mask.shape == target.shape else mask


def count_of(name: str, term: Term, target: Any, mask: Tensor | None = None) -> Count | None:
    """How many predictions a term has with this target; None where nothing says so.

    Raises AuxiliaryError that names the term where its count is no number, or a function that raises.
    """
    if mask is None and term.count is not None:
        return given_count(name, term.count, target)
    where = weight_mask(term, target, mask)
    if mask is not None:
        if where is None:
            return None
        return sum_of(where) if where.is_floating_point() else where.count_nonzero()
    if not isinstance(target, Tensor):
        return None
    if averages(term.loss):
        return divisor(term.loss, target, where)
    return target.numel() if where is None else where.sum()


def given_count(name: str, count: Any, target: Any) -> Count:
    """What Term(count=...) says. The numbers of tensors on a device are not looked at, which would wait for it."""
    found = call_named(f"term {name!r}: its count function", count, target) if callable(count) else count
    if isinstance(found, Tensor):
        right = found.numel() == 1
    else:
        right = isinstance(found, numbers.Real) and 0 <= float(found) < math.inf
    if not right:
        raise AuxiliaryError(f"term {name!r}: its count is {found!r}; it must be a number of predictions, at least 0")
    return found if isinstance(found, Tensor) else float(found)


def counts_scalar(term: Term) -> bool:
    """Whether it is known of how many predictions a scalar is the mean, when the loss of a term returns one."""
    return term.count is not None or averages(term.loss)


def count_targets(name: str, term: Term, target: Any, mask: Tensor | None) -> Count:
    """The same before the loss is called. Raises AuxiliaryError where nothing says it."""
    found = count_of(name, term, target, mask)
    if found is None:
        sort = "no target" if target is None else f"a target of type {type(target).__name__}"
        raise AuxiliaryError(f"term {name!r} has {sort}, which does not say how many predictions it asks for; give "
                             "Term(count=...), a number or a function of the target")  # fmt: skip
    return found


def as_exact(count: Count) -> Count:
    """A count to calculate with: torch divides whole numbers in float32, which a float64 loss would feel."""
    return count.to(wide_dtype(count)) if isinstance(count, Tensor) else count


def sum_of(weights: Tensor) -> Tensor:
    return weights.sum(dtype=wide_dtype(weights))


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """float64, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def no_scalar_count(name: str) -> AuxiliaryError:
    """The error where a count matters, and the loss of a term has returned a scalar that `counts_scalar` denies."""
    return AuxiliaryError(
        f"term {name!r}: its loss returned one scalar, and of how many predictions it is the mean is not known, which "
        "micro-batches and several processes need; give Term(count=...), or let the loss return a pair (sum, count) or "
        "a value per element (reduction='none')"
    )


def is_zero(count: Count) -> bool | Tensor:
    """Whether there is nothing to predict; a tensor where only a device knows, which is not waited for."""
    known = not isinstance(count, Tensor) or count.device.type == "cpu"
    return float(count) == 0 if known else count == 0


def replace_zero(count: Count) -> Count:
    """So that a term with nothing to predict adds 0, and not NaN."""
    number = as_exact(count)
    return torch.where(number == 0, 1, number) if isinstance(number, Tensor) else number or 1
