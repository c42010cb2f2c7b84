"""Weights that follow the losses: rules for Objective(rule=...).

A rule is a function from the values of the active terms (detached scalars, over all ranks, by name) to factors for
their weights, by name; a name that it leaves out has 1. One that also adds to the loss returns (factors, penalty).
Your own is a function; one with parameters or a memory is a module, and is trained and saved with the objective.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from charladder.auxiliary._aggregate import Rule
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import MAIN


class Uncertainty(nn.Module):
    """sum of exp(-s_i) L_i + s_i / 2, with every s_i learned: Kendall et al. 2018, "Multi-Task Learning Using
    Uncertainty to Weigh Losses". `names`: the terms that take part, `main` too where it is named; s starts at 0.

    A term's own weight stays in front: exp(-s_i) w_i L_i. A silent term has no penalty, so its s stays.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.log_variance = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in self.names)

    def forward(self, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        unknown = [name for name in values if name not in self.names and name != MAIN]
        if unknown:
            raise AuxiliaryError(f"Uncertainty does not know the term {unknown[0]!r}; name all of them when making it")
        active = {name: s for name, s in zip(self.names, self.log_variance, strict=True) if name in values}
        penalty = torch.stack([s / 2 for s in active.values()]).sum() if active else torch.zeros(())
        return {name: torch.exp(-s) for name, s in active.items()}, penalty


class AdaLoss(nn.Module):
    """w_i proportional to 1 / (moving average of L_i): Hu et al. 2019, "Learning Anytime Predictions in Neural
    Networks via Adaptive Loss Balancing". The constant is such that the main term has 1, so every term weighs as much
    as the main one. The averages start at the first value, and move when gradients are on.
    """

    def __init__(self, names: Iterable[str], decay: float = 0.99) -> None:
        super().__init__()
        self.names, self.decay = [MAIN, *(name for name in names if name != MAIN)], decay
        self.register_buffer("averages", torch.full((len(self.names),), torch.nan))

    def forward(self, values: dict[str, Tensor]) -> dict[str, float]:
        if MAIN not in values:
            return {}
        averages: Tensor = self.get_buffer("averages")
        if torch.is_grad_enabled():
            for place, name in enumerate(self.names):
                if name in values:
                    value = values[name].to(averages)
                    known = averages[place]
                    averages[place] = torch.where(known.isnan(), value, self.decay * known + (1 - self.decay) * value)
        bad = [name for at, name in enumerate(self.names) if name in values and float(averages[at]) <= 0]
        if bad:
            raise AuxiliaryError(f"AdaLoss weighs by 1 / loss, and that of {bad[0]!r} is not above 0; leave it out")
        factors = averages[0] / averages.clamp(min=1e-12)
        return {n: float(factors[at]) for at, n in enumerate(self.names) if n in values and not factors[at].isnan()}


def hinge(threshold: float) -> Rule:
    """Drops an auxiliary term while its loss is below `threshold`, for then it is good enough: Lee et al. 2015,
    "Deeply-Supervised Nets"."""

    def rule(values: dict[str, Tensor]) -> dict[str, float]:
        return {name: 0.0 for name, value in values.items() if name != MAIN and float(value) < threshold}

    return rule
