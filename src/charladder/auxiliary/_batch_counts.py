"""Counts of a whole batch: of several micro-batches and processes, given in a call of an objective."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from charladder.auxiliary._counts import (
    PartCounts,
    TargetCounts,
    add_counts,
    count_of_part,
    count_targets,
    unknown_count,
)
from charladder.auxiliary._errors import AuxiliaryError, nearest, term_and_part
from charladder.auxiliary._measure import MeasuredLoss
from charladder.auxiliary._select import is_mapping
from charladder.auxiliary._targets import mask_of, target_of, target_to_count
from charladder.auxiliary._term import Term


def count_batches(terms: Mapping[str, Term], batches: Iterable[Any]) -> TargetCounts:
    """See Objective.counts."""
    counts = TargetCounts(dict.fromkeys(terms, 0))
    for targets in batches:
        for name, term in terms.items():
            counts[name] = add_counts(counts[name], _count_of_term(name, term, targets))
    return counts


def _count_of_term(name: str, term: Term, targets: Any) -> PartCounts:
    target = target_to_count(term, target_of(name, term, targets), targets)
    return count_targets(name, term, target, mask_of(name, term, targets))


def check_counts(terms: Mapping[str, Term], counts: Any) -> None:
    """Raises AuxiliaryError if the `counts` of a call are not numbers by the names of terms."""
    if not is_mapping(counts):
        raise AuxiliaryError(f"counts is of {type(counts)}; give a dict of numbers, or objective.counts(batches)")
    for name, count in counts.items():
        if name not in terms:
            raise AuxiliaryError(f"counts has {name!r}, and there is no such term{nearest(name, terms)}")
        for part, number in count.items() if is_mapping(count) else [(None, count)]:
            entry = f"counts[{name!r}]" if part is None else f"counts[{name!r}][{part!r}]"
            if not isinstance(number, int | float | Tensor):
                raise AuxiliaryError(f"{entry} is {number!r}; give the number of its predictions")
            if not isinstance(number, Tensor) and not number >= 0:
                raise AuxiliaryError(f"{entry} is {number!r}; it must be at least 0")


def check_comparable(
    terms: Mapping[str, Term], measured: Mapping[str, Sequence[MeasuredLoss]], world_size: int
) -> None:
    """Raises AuxiliaryError for losses that micro-batches or processes cannot add up.

    A mean over an unknown number of predictions: the result would be a mean of means. Parts whose names are known only
    from what the loss of one process returned.
    """
    for name, parts in measured.items():
        for one in parts:
            if not one.counted:
                raise unknown_count(name, one.part)
        if world_size > 1 and terms[name].parts is None and parts[0].part is not None:
            names = ", ".join(f"{one.part!r}: 1" for one in parts)
            raise AuxiliaryError(
                f"term {name!r}: its loss returned named parts, and several processes must know that they have the "
                f"same; give Term(parts={{{names}}})"
            )


def check_same_counts(terms: Mapping[str, Term], measured: Mapping[str, Sequence[MeasuredLoss]], targets: Any) -> None:
    """Raises AuxiliaryError for a loss whose count is not the one that `objective.counts` has for its target."""
    for name, parts in measured.items():
        counts = _count_of_term(name, terms[name], targets)
        for one in parts:
            expected = float(count_of_part(name, counts, one.part))
            if not math.isclose(float(one.count), expected, rel_tol=1e-6):
                raise AuxiliaryError(
                    f"{term_and_part(name, one.part)}: its loss has {float(one.count):g} predictions where "
                    f"objective.counts found {expected:g}; give Term(count=...), or counts in a dict of your own"
                )
