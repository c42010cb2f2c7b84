"""The terms of many reports as numbers to log."""

from dataclasses import replace

import torch
from torch import Tensor

from charladder.auxiliary._counts import replace_zero, to_exact
from charladder.auxiliary._report import Report, TermReport, merge


class TermLog:
    """Adds up the terms of reports. It keeps no graph, and does not wait for an accelerator before `pop`."""

    def __init__(self) -> None:
        self._report = _empty()

    def add(self, report: Report) -> None:
        """Adds the sums and counts of a report, for example that of a micro-batch."""
        terms = {name: _as_counted(term) for name, term in report.terms.items()}
        self._report = merge([self._report, Report(torch.zeros(()), terms)])

    def pop(self) -> dict[str, float]:
        """`NAME_loss`, the mean over all predictions, and `NAME_weight`, the last one; `NAME.PART_loss` of named parts.

        Forgets them.
        """
        entries: dict[str, float] = {}
        for name, term in self._report.terms.items():
            entries |= {f"{name}_loss": term.value, f"{name}_weight": term.weight}
            entries |= {f"{name}.{part}_loss": one.value for part, one in term.parts.items()}
        self._report = _empty()
        return entries


def mean(term: TermReport) -> Tensor:
    """The mean loss of a term as a tensor, where `TermReport.value` is a number."""
    return term.loss if term.mean else term.loss / replace_zero(to_exact(term.count))


def _empty() -> Report:
    return Report(torch.zeros(()), {})


def _as_counted(term: TermReport) -> TermReport:
    """A term whose count is not known is logged too: its mean over several calls is weighted by its targets."""
    return replace(term, counted=True, parts={name: _as_counted(one) for name, one in term.parts.items()})
