"""The weighted sum of the main loss and the auxiliary losses, each divided by its count.

total = sum over terms of weight * factor of the rule * loss / count + penalty of the rule

The loss of a term with named parts is the sum of its parts, each divided by a count of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary import distributed
from charladder.auxiliary._batch_counts import check_comparable, check_same_counts
from charladder.auxiliary._counts import (
    Count,
    PartCounts,
    TargetCounts,
    count_of,
    count_of_part,
    replace_zero,
    to_exact,
)
from charladder.auxiliary._errors import AuxiliaryError, is_control_flow, raised_by
from charladder.auxiliary._measure import MeasuredLoss, measure
from charladder.auxiliary._predictions import head_input, predict
from charladder.auxiliary._report import Report, TermReport, sum_of_parts
from charladder.auxiliary._select import is_mapping, is_tuple
from charladder.auxiliary._targets import ForwardPass, mask_of, read_target, target_to_count
from charladder.auxiliary._term import MAIN, Term

# A rule turns the values of all active terms (detached, over all ranks) into factors for their weights, by name. The
# factor of a name that it leaves out is 1. It may return a pair instead: the factors, and a penalty that is added.
# A rule with the attribute `takes_losses` is called with a second argument: what each term adds to the total of this
# process with a factor of 1, attached to the graph.
Rule = Callable[..., Any]


def measure_all(
    terms: Mapping[str, Term],
    trained: Mapping[str, bool],
    model_heads: Mapping[str, nn.Module],
    forward: ForwardPass,
) -> dict[str, list[MeasuredLoss]]:
    """The losses of terms, without their weights: one for each term, or one for each of its named parts.

    trained: the names of the terms, and whether each is measured with gradients. model_heads: heads that are modules of
    the model, by name.
    """
    measured: dict[str, list[MeasuredLoss]] = {}
    heads: dict[str, Any] = {}
    for name in trained:
        head = terms[name].head
        heads[name] = model_heads.get(head) if isinstance(head, str) else head
    uses = Counter(map(id, heads.values()))
    predictions: dict[Any, Any] = {}  # of heads that several terms share; each runs once
    # Terms may share a target. The target is kept here, so that no other object gets its id.
    counts: dict[tuple[int, int, int], tuple[Any, PartCounts | None]] = {}

    def measure_one(name: str) -> list[MeasuredLoss]:
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

        def count(name: str = name, term: Term = term, target: Any = to_count) -> PartCounts | None:
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
    measured: Mapping[str, Sequence[MeasuredLoss]],
    terms: Mapping[str, Term],
    weights: Mapping[str, float],
    rule: Rule | None,
    counts: Mapping[str, PartCounts] | None,
    targets: Any,
    world_size: int,
) -> Report:
    """The report of one call: every measured loss divided by its count, weighted and summed.

    counts: those of the whole batch of this process; None for those of this call. world_size: the number of processes.
    """
    if world_size > 1 or counts is not None:
        check_comparable(terms, measured, world_size)
    if isinstance(counts, TargetCounts) and not torch.compiler.is_compiling():  # reads the counts
        check_same_counts(terms, measured, targets)
    reports, divisors = _reduce(measured, weights, counts, world_size)
    weighted = {name: losses for name, losses in measured.items() if weights[name] != 0}
    parts = {name: _divide(losses, divisors[name], weights[name], world_size) for name, losses in weighted.items()}
    factors, penalty = _apply_rule(rule, terms, {name: reports[name] for name in weighted}, parts)
    for name, factor in factors.items():
        parts[name] = parts[name] * factor
        reports[name].weight *= float(torch.as_tensor(factor).detach())
    total: Tensor | None = None
    for part in parts.values():
        total = part if total is None else total + part
    if penalty is not None:
        if counts is not None:  # the share of this micro-batch
            name = MAIN if MAIN in weighted else next(iter(weighted))
            share = to_exact(reports[name].count) / replace_zero(sum(divisors[name]))
            penalty = penalty * torch.as_tensor(share).to(penalty)
        total = penalty if total is None else total + penalty
    if total is None:  # every term is inactive; backward must still be possible
        total = torch.zeros((), requires_grad=torch.is_grad_enabled())

    def unweighted() -> dict[str, Tensor]:
        return {name: _divide(losses, divisors[name], 1.0, world_size) for name, losses in weighted.items()}

    return Report(total, reports, parts, unweighted=unweighted)


def _reduce(
    measured: Mapping[str, Sequence[MeasuredLoss]],
    weights: Mapping[str, float],
    counts: Mapping[str, PartCounts] | None,
    world_size: int,
) -> tuple[dict[str, TermReport], dict[str, list[Count]]]:
    """The reports of all terms and the divisors of their parts, over all ranks."""
    missing = [name for name in measured if counts is not None and name not in counts]
    if missing:
        raise AuxiliaryError(f"counts lacks the term {missing[0]!r}; it must have every active one")
    rows = [(name, measured_loss) for name, several in measured.items() for measured_loss in several]
    reports = [
        TermReport(
            measured_loss.loss.detach(),
            measured_loss.count,
            weights[name] if measured_loss.part is None else measured_loss.weight,
            measured_loss.mean,
            measured_loss.counted,
        )
        for name, measured_loss in rows
    ]
    divisors = [
        measured_loss.count if counts is None else count_of_part(name, counts[name], measured_loss.part)
        for name, measured_loss in rows
    ]
    if world_size > 1 and rows:
        sums, local_counts, divisors = distributed.all_reduce_sums(
            [report.sum for report in reports], [report.count for report in reports], divisors
        )
        reports = [
            TermReport(total, count, report.weight)
            for total, count, report in zip(sums, local_counts, reports, strict=True)
        ]
    reports_of_terms: dict[str, TermReport] = {}
    divisors_of_terms: dict[str, list[Count]] = {}
    begin = 0
    for name, several in measured.items():
        end = begin + len(several)
        if several[0].part is None:
            reports_of_terms[name] = reports[begin]
        else:
            parts = {
                str(measured_loss.part): report
                for measured_loss, report in zip(several, reports[begin:end], strict=True)
            }
            reports_of_terms[name] = sum_of_parts(parts, weights[name])
        divisors_of_terms[name] = list(divisors[begin:end])
        begin = end
    return reports_of_terms, divisors_of_terms


def _divide(parts: Sequence[MeasuredLoss], divisors: Sequence[Count], weight: float, world_size: int) -> Tensor:
    """The loss of a term in the total: its parts, each divided by its count, times their weights."""
    total: Tensor | None = None
    for measured_loss, divisor in zip(parts, divisors, strict=True):
        if measured_loss.weight != 0:
            scaled = measured_loss.loss * _scale(weight * measured_loss.weight, measured_loss, divisor, world_size)
            total = scaled if total is None else total + scaled
    assert total is not None  # Term(parts=...) has a weight that is not 0
    return total


def _scale(weight: float, measured_loss: MeasuredLoss, divisor: Count, world_size: int) -> Any:
    """The factor of a loss in the total. For a mean over all predictions it is exactly the weight."""
    if measured_loss.mean and divisor is measured_loss.count:
        return weight
    # times world_size, because DDP averages gradients over ranks, and the divisor is a sum over ranks
    factor = weight * world_size * (to_exact(measured_loss.count) if measured_loss.mean else 1) / replace_zero(divisor)
    return factor.to(measured_loss.loss.dtype) if isinstance(factor, Tensor) else factor


def _apply_rule(
    rule: Rule | None, names: Iterable[str], reports: Mapping[str, TermReport], losses: Mapping[str, Tensor]
) -> tuple[dict[str, Any], Tensor | None]:
    """The factors of the rule, by name, and its penalty. names: of all terms, active or not."""
    if rule is None or not reports:
        return {}, None
    predicting = {n: r for n, r in reports.items() if float(r.count)}
    values = {n: r.loss if r.mean else r.loss / to_exact(r.count) for n, r in predicting.items()}
    try:
        takes_losses = getattr(rule, "takes_losses", False)
        answer = rule(values, {name: losses[name] for name in values}) if takes_losses else rule(values)
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
