"""From one forward pass to a report: every active term measured, divided and weighed."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from charladder.auxiliary import distributed
from charladder.auxiliary._counts import Count, as_exact, count_of, count_targets, no_scalar_count, replace_zero
from charladder.auxiliary._errors import AuxiliaryError, is_control_flow, nearest, raised_by
from charladder.auxiliary._measure import Measured, measure
from charladder.auxiliary._predictions import TapOutputs, mask_of, predict, read_predictions, target_of
from charladder.auxiliary._report import TermReport
from charladder.auxiliary._term import Term

# A rule turns the values of all active terms (detached, over all ranks) into factors for their weights, by name; names
# it leaves out have 1. It may return a pair instead: the factors, and a penalty to add to the total.
Rule = Callable[[dict[str, Tensor]], Any]


def measure_all(
    terms: Mapping[str, Term],
    active: Iterable[str],
    heads: Mapping[str, nn.Module],
    output: Any,
    targets: Any,
    caught: TapOutputs,
    model: Any,
) -> dict[str, Measured]:
    """The loss of every active term, before weights. heads: those that are the model's, by name."""
    measured, known = {}, {}  # counts by target, with the target, so that no other takes its id
    for name in active:
        term = terms[name]
        head = heads.get(term.head) if isinstance(term.head, str) else term.head
        if head is None and term.head is not None:
            raise AuxiliaryError(f"term {name!r}: its head {term.head!r} is the model's; attach(model) first")
        prediction = predict(name, term, head, read_predictions(name, terms, output, caught, model))

        target, mask = target_of(name, term, targets), mask_of(name, term, targets)

        def count(name: str = name, term: Term = term, target: Any = target) -> Count | None:
            key = id(target), id(term.count), id(term.loss)
            if key not in known:
                known[key] = target, count_of(name, term, target)
            return known[key][1]

        measured[name] = measure(name, term, prediction, target, mask, count)
    return measured


def check_scalars(measured: Mapping[str, Measured]) -> None:
    """Raises AuxiliaryError for a mean over an unknown number of predictions: it would make a mean of means."""
    for name, one in measured.items():
        if not one.counted:
            raise no_scalar_count(name)


def check_counts(terms: Mapping[str, Term], counts: Any) -> None:
    """Raises AuxiliaryError where the `counts` of a call are not numbers by the names of terms."""
    if not isinstance(counts, dict | Mapping):
        raise AuxiliaryError(f"counts is of {type(counts)}; give a dict of numbers, or objective.counts(batches)")
    for name, count in counts.items():
        if name not in terms:
            raise AuxiliaryError(f"counts has {name!r}, and there is no such term{nearest(name, terms)}")
        if not isinstance(count, int | float | Tensor):
            raise AuxiliaryError(f"counts[{name!r}] is {count!r}; give the number of its predictions")
        if not isinstance(count, Tensor) and not count >= 0:
            raise AuxiliaryError(f"counts[{name!r}] is {count!r}; it must be at least 0")


def check_counted(terms: Mapping[str, Term], measured: Mapping[str, Measured], targets: Any) -> None:
    """Raises AuxiliaryError for a loss that counts otherwise than `counts` did before it was seen."""
    for name, one in measured.items():
        term = terms[name]
        said = count_targets(name, term, target_of(name, term, targets), mask_of(name, term, targets))
        if not math.isclose(float(one.count), float(said), rel_tol=1e-6):
            raise AuxiliaryError(
                f"term {name!r}: its loss has {float(one.count):g} predictions where objective.counts found "
                f"{float(said):g}; give Term(count=...), or counts in a dict of your own"
            )


def rule_factors(
    rule: Rule | None, names: Iterable[str], terms: Mapping[str, TermReport]
) -> tuple[dict[str, Any], Tensor | None]:
    """What the rule says: factors by name, and a penalty. `names`: of all terms that there are."""
    if rule is None or not terms:
        return {}, None
    known = {n: t for n, t in terms.items() if float(t.count)}  # nothing is known of a term with nothing to predict
    values = {n: t.loss if t.mean else t.loss / as_exact(t.count) for n, t in known.items()}
    try:
        answer = rule(values)
    except AuxiliaryError:  # of the library's own rules, whose sentences are complete
        raise
    except Exception as error:
        if is_control_flow(error):
            raise
        raise raised_by("the rule", error) from error
    factors, penalty = answer if isinstance(answer, tuple) else (answer, None)
    if not isinstance(factors, Mapping):
        raise AuxiliaryError(f"the rule returned {type(factors).__name__}; it must return factors by the terms' names")
    strange = [name for name in factors if name not in names]
    if strange:
        raise AuxiliaryError(f"the rule has a factor for {strange[0]!r}, and there is no such term")
    return {name: factor for name, factor in factors.items() if name in terms}, penalty


def report_terms(
    measured: Mapping[str, Measured], weights: Mapping[str, float], counts: Mapping[str, Count] | None, world: int
) -> tuple[dict[str, TermReport], dict[str, Count]]:
    """The report of every term, over all ranks, and what each is divided by."""
    terms = {
        name: TermReport(one.loss.detach(), one.count, weights[name], one.mean, one.counted)
        for name, one in measured.items()
    }
    missing = [name for name in measured if counts is not None and name not in counts]
    if missing:
        raise AuxiliaryError(f"counts lacks the term {missing[0]!r}; it must have every active one")
    divisors: dict[str, Count] = {n: one.count if counts is None else counts[n] for n, one in measured.items()}
    if world > 1 and measured:
        names = list(measured)
        sums, found, whole = distributed.all_reduce_sums(
            [terms[name].sum for name in names], [terms[name].count for name in names], list(divisors.values())
        )
        terms = {name: TermReport(sums[at], found[at], weights[name]) for at, name in enumerate(names)}
        divisors = {name: whole[at] for at, name in enumerate(names)}
    return terms, divisors


def scale(weight: float, one: Measured, divisor: Count, world: int) -> Any:
    """What a loss is multiplied by. A mean over all there is has its weight, to the last bit."""
    if one.mean and divisor is one.count:
        return weight
    factor = weight * world * (as_exact(one.count) if one.mean else 1) / replace_zero(divisor)
    return factor.to(one.loss.dtype) if isinstance(factor, Tensor) else factor
