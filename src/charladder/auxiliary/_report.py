"""The result of one call of an objective: the total to call backward on, and every term by name."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from charladder.auxiliary._counts import Count, replace_zero, to_exact, unknown_count


@dataclass
class TermReport:
    """One term: its `loss`, detached (a sum over `count` predictions, or their `mean`), and its `weight`.

    counted: whether the count is known. It is not if a function of the user's has returned a scalar and the term has
    no `count`; the count here is then the number of the target's elements.
    parts: the named parts of its loss, each with its own value and count, and its weight inside the term. The term's
    value is the sum of their weights times values, and its count the sum of their counts.
    """

    loss: Tensor
    count: Count
    weight: float
    mean: bool = False
    counted: bool = True
    parts: dict[str, "TermReport"] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The mean loss, in the unit of the loss (nats, for cross-entropy)."""
        return float(self.loss) / (1.0 if self.mean else float(replace_zero(self.count)))

    @property
    def bits(self) -> float:
        """The mean loss in bits, if the loss is in nats."""
        return self.value / math.log(2)

    @property
    def share(self) -> float:
        """What the term adds to the total, or the part to its term: weight times value."""
        return self.weight * self.value

    @property
    def sum(self) -> Tensor:
        """The sum of the losses; of a mean in float64 if the device has it, which keeps the division exact."""
        if not self.mean:
            return self.loss
        wide = self.loss if self.loss.device.type == "mps" else self.loss.double()
        return wide * to_exact(self.count)


@dataclass
class Report:
    """`total`: the tensor to call backward on. `terms`: the active terms, by name.

    Under several ranks the terms are those of all ranks, and `total` is this rank's share, times the number of ranks:
    the average of the ranks' gradients, which DDP and FSDP2 take, is then the gradient of the global loss.
    `parts` has what each term adds to `total`, attached to the graph: for gradients by term.
    `output` is what the model returned, where the objective ran it.
    """

    total: Tensor
    terms: dict[str, TermReport]
    parts: dict[str, Tensor] = field(default_factory=dict, repr=False)
    output: Any = field(default=None, repr=False)
    unweighted: Callable[[], dict[str, Tensor]] = field(default=dict, repr=False)

    @property
    def losses(self) -> dict[str, Tensor]:
        """The loss of each term with a weight, unweighted and attached to the graph: for a loop that adds them itself.

        Each is divided as in `total`: the sum of weight times loss is the total without factors and penalty of a rule.
        """
        return self.unweighted()

    @property
    def value(self) -> float:
        """The weighted sum of the terms, over all ranks, as a number."""
        return sum(term.share for term in self.terms.values())


def merge(reports: Iterable[Report]) -> Report:
    """The report of several micro-batches of one batch: totals, sums and counts are added. It has no graph.

    Raises AuxiliaryError for a term in several reports whose counts are not known: their mean would be wrong.
    """
    total = torch.zeros(())
    terms: dict[str, TermReport] = {}
    for report in reports:
        total = total + report.total.detach().to(total.device)
        for name, term in report.terms.items():
            terms[name] = _merge_terms(name, None, terms.get(name), term)
    return Report(total, terms)


def _merge_terms(name: str, part: str | None, before: TermReport | None, term: TermReport) -> TermReport:
    """One term, or one part of it, of two reports. before: None for the first report that has it."""
    if term.parts:
        parts = {} if before is None else dict(before.parts)
        parts |= {one: _merge_terms(name, one, parts.get(one), report) for one, report in term.parts.items()}
        return sum_of_parts(parts, term.weight)
    if before is not None and not (term.counted and before.counted):
        raise unknown_count(name, part)
    return TermReport(
        term.sum if before is None else before.sum + term.sum,
        term.count + (0 if before is None else before.count),
        term.weight,
        counted=term.counted,
    )


def sum_of_parts(parts: dict[str, TermReport], weight: float) -> TermReport:
    """The report of a term with named parts: the sum of their means, each times its weight. weight: the term's."""
    means = [
        one.weight * (one.loss if one.mean else one.loss / replace_zero(one.count))
        for one in parts.values()
        if one.weight != 0
    ]
    counts = [one.count for one in parts.values()]
    counted = all(one.counted for one in parts.values())
    return TermReport(sum(means[1:], means[0]), sum(counts[1:], counts[0]), weight, True, counted, parts)
