"""Terms of an objective: each a sum and a count, so that any grouping of the data divides once."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class TermReport:
    """One term of one objective: `sum` of its losses in nats (detached), over `count` predictions, and its `weight`."""

    sum: Tensor
    count: int
    weight: float

    @property
    def value(self) -> float:
        """The mean loss in nats."""
        return float(self.sum) / self.count

    @property
    def bits(self) -> float:
        """The mean loss in bits."""
        return self.value / math.log(2)

    @property
    def share(self) -> float:
        """What the term adds to the total, in nats."""
        return self.weight * self.value


@dataclass
class Report:
    """`total`: what to call backward on, in nats; `terms`: what it is made of, by name."""

    total: Tensor
    terms: dict[str, TermReport]


def merge(reports: Iterable[Report]) -> Report:
    """The report of several micro-batches of one batch: totals and sums add up, counts too."""
    total, terms = torch.zeros(()), {}
    for report in reports:
        total = total + report.total.detach().to(total.device)
        for name, term in report.terms.items():
            known = terms.get(name)
            terms[name] = TermReport(
                term.sum if known is None else known.sum + term.sum,
                term.count + (0 if known is None else known.count),
                term.weight,
            )
    return Report(total, terms)
