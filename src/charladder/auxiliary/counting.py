"""How many predictions a loss stands for: what every term is divided by, once.

Said by Term(count=...); else what the mask keeps, else the elements of the target, without those that torch's losses
ignore (-100, or their own `ignore_index`), and by their class weights where they average by these.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary.errors import AuxiliaryError
from charladder.auxiliary.term import Term

IGNORED = -100
Count = float | Tensor


class Counted(dict[str, Count]):
    """Counts that were taken from targets alone, before any loss was seen."""


def option(loss: Callable[..., Any], name: str) -> Any:
    """The `ignore_index`, `weight` or `reduction` of a loss of torch's, as a module or with its arguments bound."""
    if isinstance(loss, functools.partial):
        return loss.keywords.get(name)
    return getattr(loss, name, None) if isinstance(loss, nn.modules.loss._Loss) else None


def whole_numbers(target: Any) -> bool:
    return isinstance(target, Tensor) and not target.is_floating_point() and target.dtype != torch.bool


def kept(term: Term, target: Any, mask: Tensor | None) -> Tensor | None:
    """Where a prediction counts, as truth values; None where all do."""
    if not whole_numbers(target):
        return mask
    own = option(term.loss, "ignore_index")
    ignored = IGNORED if own is None else own
    if ignored < 0 and not target.dtype.is_signed:
        return mask  # no such number can be there
    if mask is None:
        return target != ignored
    return mask & (target != ignored) if mask.shape == target.shape else mask


def count_of(term: Term, target: Any, mask: Tensor | None = None) -> Count | None:
    """How many predictions a term has with this target; None where nothing says so."""
    if mask is None and term.count is not None:
        return term.count(target) if callable(term.count) else term.count
    where = kept(term, target, mask)
    if mask is not None:
        return where.count_nonzero() if where is not None else None
    if not isinstance(target, Tensor):
        return None
    by_class = option(term.loss, "weight")
    if by_class is not None and where is not None and option(term.loss, "reduction") in (None, "mean"):
        return by_class.double()[target[where].long()].sum()
    return target.numel() if where is None else where.sum()


def count_targets(name: str, term: Term, target: Any, mask: Tensor | None) -> Count:
    """The same before the loss is called. Raises AuxiliaryError where nothing says it."""
    found = count_of(term, target, mask)
    if found is None:
        sort = "no target" if target is None else f"a target of type {type(target).__name__}"
        raise AuxiliaryError(f"term {name!r} has {sort}, which does not say how many predictions it asks for; give "
                             "Term(count=...), a number or a function of the target")  # fmt: skip
    return found


def exact(count: Count) -> Count:
    """A count to calculate with: torch divides whole numbers in float32, which a float64 loss would feel."""
    if not isinstance(count, Tensor):
        return count
    return count.to(torch.float32 if count.device.type == "mps" else torch.float64)


def never_zero(count: Count) -> Count:
    """So that a term with nothing to predict adds 0, and not NaN."""
    number = exact(count)
    return torch.where(number == 0, 1, number) if isinstance(number, Tensor) else number or 1
