"""The weighted sum of the main loss and the auxiliary losses, each divided by its count.

total = sum over terms of weight * factor of the rule * loss / count + penalty of the rule
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary import distributed
from charladder.auxiliary._counts import (
    Count,
    TargetCounts,
    count_of,
    count_targets,
    replace_zero,
    to_exact,
    unknown_count,
)
from charladder.auxiliary._errors import AuxiliaryError, is_control_flow, nearest, raised_by
from charladder.auxiliary._measure import MeasuredLoss, measure
from charladder.auxiliary._predictions import head_input, predict
from charladder.auxiliary._report import Report, TermReport
from charladder.auxiliary._select import is_mapping, is_tuple
from charladder.auxiliary._targets import ForwardPass, mask_of, read_target, target_of, target_to_count
from charladder.auxiliary._term import MAIN, Term

# A rule turns the values of all active terms (detached, over all ranks) into factors for their weights, by name. The
# factor of a name that it leaves out is 1. It may return a pair instead: the factors, and a penalty that is added.
Rule = Callable[[dict[str, Tensor]], Any]


def measure_all(
    terms: Mapping[str, Term],
    trained: Mapping[str, bool],
    model_heads: Mapping[str, nn.Module],
    forward: ForwardPass,
) -> dict[str, MeasuredLoss]:
    """The losses of terms, without their weights.

    trained: the names of the terms, and whether each is measured with gradients. model_heads: heads that are modules of
    the model, by name.
    """
    measured: dict[str, MeasuredLoss] = {}
    heads: dict[str, Any] = {}
    for name in trained:
        head = terms[name].head
        heads[name] = model_heads.get(head) if isinstance(head, str) else head
    uses = Counter(map(id, heads.values()))
    predictions: dict[Any, Any] = {}  # of heads that several terms share; each runs once
    # Terms may share a target. The target is kept here, so that no other object gets its id.
    counts: dict[tuple[int, int, int], tuple[Any, Count | None]] = {}

    def measure_one(name: str) -> MeasuredLoss:
        term, head = terms[name], heads[name]
        if head is None and term.head is not None:
            raise AuxiliaryError(f"term {name!r}: its head {term.head!r} is the model's; attach(model) first")
        key = _prediction_key(term, head) if head is not None and uses[id(head)] > 1 else None
        prediction = predictions.get(key) if key is not None else None
        if prediction is None:
            state = head_input(name, terms, forward.output, forward.tap_outputs, forward.model)
            prediction = predict(name, term, head, state)
            if key is not None:
                predictions[key] = prediction
        target, mask = read_target(name, term, forward), mask_of(name, term, forward.targets)

        to_count = target_to_count(term, target, forward.targets)

        def count(name: str = name, term: Term = term, target: Any = to_count) -> Count | None:
            if torch.compiler.is_compiling():  # a graph that reads ids is compiled again for each batch
                return count_of(name, term, target)
            shared = id(target), id(term.count), id(term.loss)
            if shared not in counts:
                counts[shared] = target, count_of(name, term, target)
            return counts[shared][1]

        return measure(name, term, prediction, target, mask, count)

    for name, with_gradients in trained.items():
        if with_gradients:
            measured[name] = measure_one(name)
        else:
            with torch.no_grad():
                measured[name] = measure_one(name)
    return measured


def _prediction_key(term: Term, head: Any) -> Any:
    """What terms with the same prediction have in common; None for a term whose prediction is not shared."""
    if term.tap is None and term.select is None:
        return None
    key = id(head), term.tap, term.select, term.call, term.detach_tap, term.detach_head, torch.is_grad_enabled()
    try:
        hash(key)
    except TypeError:  # a selector that is a list
        return None
    return key


def aggregate(
    measured: Mapping[str, MeasuredLoss],
    terms: Mapping[str, Term],
    weights: Mapping[str, float],
    rule: Rule | None,
    counts: Mapping[str, Count] | None,
    targets: Any,
    world: int,
) -> Report:
    """The report of one call: every measured loss divided by its count, weighted and summed.

    counts: those of the whole batch of this process; None for those of this call. world: the number of processes.
    """
    if world > 1 or counts is not None:
        _check_counts_known(measured)
    if isinstance(counts, TargetCounts):
        _check_same_counts(terms, measured, targets)
    reports, divisors = _reduce(measured, weights, counts, world)
    weighted = {name: one for name, one in measured.items() if weights[name] != 0}
    factors, penalty = _apply_rule(rule, terms, {name: reports[name] for name in weighted})
    total: Tensor | None = None
    parts: dict[str, Tensor] = {}
    for name, one in weighted.items():
        part = one.loss * _scale(weights[name], one, divisors[name], world)
        if name in factors:
            part = part * factors[name]
            reports[name].weight *= float(torch.as_tensor(factors[name]).detach())
        parts[name] = part
        total = part if total is None else total + part
    if penalty is not None:
        if counts is not None:  # the share of this micro-batch
            name = MAIN if MAIN in weighted else next(iter(weighted))
            share = to_exact(reports[name].count) / replace_zero(divisors[name])
            penalty = penalty * torch.as_tensor(share).to(penalty)
        total = penalty if total is None else total + penalty
    if total is None:  # every term is silent; backward must still be possible
        total = torch.zeros((), requires_grad=torch.is_grad_enabled())

    def unweighted() -> dict[str, Tensor]:
        return {name: one.loss * _scale(1.0, one, divisors[name], world) for name, one in weighted.items()}

    return Report(total, reports, parts, unweighted=unweighted)


def _reduce(
    measured: Mapping[str, MeasuredLoss], weights: Mapping[str, float], counts: Mapping[str, Count] | None, world: int
) -> tuple[dict[str, TermReport], dict[str, Count]]:
    """The reports of all terms and their divisors, over all ranks."""
    reports = {
        name: TermReport(one.loss.detach(), one.count, weights[name], one.mean, one.counted)
        for name, one in measured.items()
    }
    missing = [name for name in measured if counts is not None and name not in counts]
    if missing:
        raise AuxiliaryError(f"counts lacks the term {missing[0]!r}; it must have every active one")
    divisors: dict[str, Count] = {n: one.count if counts is None else counts[n] for n, one in measured.items()}
    if world > 1 and measured:
        sums, local_counts, global_counts = distributed.all_reduce_sums(
            [report.sum for report in reports.values()],
            [report.count for report in reports.values()],
            list(divisors.values()),
        )
        reports = {name: TermReport(sums[at], local_counts[at], weights[name]) for at, name in enumerate(measured)}
        divisors = {name: global_counts[at] for at, name in enumerate(measured)}
    return reports, divisors


def _scale(weight: float, one: MeasuredLoss, divisor: Count, world: int) -> Any:
    """The factor of a loss in the total. For a mean over all predictions it is exactly the weight."""
    if one.mean and divisor is one.count:
        return weight
    factor = weight * world * (to_exact(one.count) if one.mean else 1) / replace_zero(divisor)
    return factor.to(one.loss.dtype) if isinstance(factor, Tensor) else factor


def _apply_rule(
    rule: Rule | None, names: Iterable[str], reports: Mapping[str, TermReport]
) -> tuple[dict[str, Any], Tensor | None]:
    """The factors of the rule, by name, and its penalty. names: of all terms, active or not."""
    if rule is None or not reports:
        return {}, None
    predicting = {n: r for n, r in reports.items() if float(r.count)}
    values = {n: r.loss if r.mean else r.loss / to_exact(r.count) for n, r in predicting.items()}
    try:
        answer = rule(values)
    except Exception as error:
        if isinstance(error, AuxiliaryError) or is_control_flow(error):  # messages of the library are complete
            raise
        raise raised_by("the rule", error) from error
    factors, penalty = answer if is_tuple(answer) else (answer, None)
    if not is_mapping(factors):
        raise AuxiliaryError(f"the rule returned {type(factors).__name__}; it must return factors by the terms' names")
    unknown = [name for name in factors if name not in names]
    if unknown:
        raise AuxiliaryError(f"the rule has a factor for {unknown[0]!r}, and there is no such term")
    return {name: factor for name, factor in factors.items() if name in reports}, penalty


def check_counts(terms: Mapping[str, Term], counts: Any) -> None:
    """Raises AuxiliaryError if the `counts` of a call are not numbers by the names of terms."""
    if not is_mapping(counts):
        raise AuxiliaryError(f"counts is of {type(counts)}; give a dict of numbers, or objective.counts(batches)")
    for name, count in counts.items():
        if name not in terms:
            raise AuxiliaryError(f"counts has {name!r}, and there is no such term{nearest(name, terms)}")
        if not isinstance(count, int | float | Tensor):
            raise AuxiliaryError(f"counts[{name!r}] is {count!r}; give the number of its predictions")
        if not isinstance(count, Tensor) and not count >= 0:
            raise AuxiliaryError(f"counts[{name!r}] is {count!r}; it must be at least 0")


def _check_counts_known(measured: Mapping[str, MeasuredLoss]) -> None:
    """Raises AuxiliaryError for a mean over an unknown number of predictions: the result would be a mean of means."""
    for name, one in measured.items():
        if not one.counted:
            raise unknown_count(name)


def _check_same_counts(terms: Mapping[str, Term], measured: Mapping[str, MeasuredLoss], targets: Any) -> None:
    """Raises AuxiliaryError for a loss whose count is not the one that `objective.counts` has for its target."""
    for name, one in measured.items():
        term = terms[name]
        target = target_to_count(term, target_of(name, term, targets), targets)
        expected = count_targets(name, term, target, mask_of(name, term, targets))
        if not math.isclose(float(one.count), float(expected), rel_tol=1e-6):
            raise AuxiliaryError(
                f"term {name!r}: its loss has {float(one.count):g} predictions where objective.counts found "
                f"{float(expected):g}; give Term(count=...), or counts in a dict of your own"
            )
