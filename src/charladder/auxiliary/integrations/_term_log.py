"""The terms of many reports as numbers to log."""

from torch import Tensor

from charladder.auxiliary._counts import Count, replace_zero, to_exact
from charladder.auxiliary._report import Report, TermReport


class TermLog:
    """Adds up the terms of reports. It keeps no graph, and does not wait for an accelerator before `pop`."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Count, float]] = {}

    def add(self, report: Report) -> None:
        """Adds the sums and counts of a report, for example that of a micro-batch."""
        for name, term in report.terms.items():
            loss, count, _ = self._sums.get(name, (0, 0, 0.0))
            self._sums[name] = loss + term.sum, count + term.count, term.weight

    def pop(self) -> dict[str, float]:
        """`NAME_loss`, the mean over all predictions, and `NAME_weight`, the last one. Forgets them."""
        entries: dict[str, float] = {}
        for name, (loss, count, weight) in self._sums.items():
            entries |= {f"{name}_loss": float(loss) / float(replace_zero(count)), f"{name}_weight": weight}
        self._sums = {}
        return entries


def mean(term: TermReport) -> Tensor:
    """The mean loss of a term as a tensor, where `TermReport.value` is a number."""
    return term.loss if term.mean else term.loss / replace_zero(to_exact(term.count))
