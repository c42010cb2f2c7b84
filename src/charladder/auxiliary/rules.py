"""Rules for Objective(rule=...): weights that depend on the losses.

A rule is a function from the values of the active terms (detached scalars, over all ranks, by name) to factors for
their weights, by name; the factor of a name that it leaves out is 1. A rule that also adds to the loss returns
(factors, penalty). Any function can be a rule; one with parameters or state is a module, and is trained and saved with
the objective.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from charladder.auxiliary._aggregate import Rule
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import MAIN


class Uncertainty(nn.Module):
    """sum of exp(-s_i) L_i + s_i / 2, with every s_i learned: Kendall et al. 2018, "Multi-Task Learning Using
    Uncertainty to Weigh Losses". `names`: the weighted terms, `main` too if it is named; s starts at 0.

    The weight of the term remains a factor: exp(-s_i) w_i L_i. A silent term has no penalty, so its s does not change.
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
    Networks via Adaptive Loss Balancing". The main term has weight 1, so every term contributes as much as the main
    one. The averages start at the first value, and change when gradients are enabled.

    >>> AdaLoss(["early"])({"main": torch.tensor(2.0), "early": torch.tensor(4.0)})
    {'main': 1.0, 'early': 0.5}
    """

    def __init__(self, names: Iterable[str], decay: float = 0.99) -> None:
        super().__init__()
        self.names, self.decay = [MAIN, *(name for name in names if name != MAIN)], decay
        self.register_buffer("averages", torch.full((len(self.names),), torch.nan))

    def forward(self, values: dict[str, Tensor]) -> dict[str, float]:
        if MAIN not in values:
            return {}
        averages: Tensor = self.get_buffer("averages")
        active = [(index, name) for index, name in enumerate(self.names) if name in values]
        if torch.is_grad_enabled():
            for index, name in active:
                value, average = values[name].to(averages), averages[index]
                averages[index] = torch.where(average.isnan(), value, self.decay * average + (1 - self.decay) * value)
        invalid = [name for index, name in active if float(averages[index]) <= 0]
        if invalid:
            raise AuxiliaryError(f"AdaLoss divides by losses, and that of {invalid[0]!r} is not above 0; leave it out")
        factors = averages[0] / averages.clamp(min=1e-12)
        return {name: float(factors[index]) for index, name in active if not factors[index].isnan()}


def hinge(threshold: float) -> Rule:
    """Drops an auxiliary term while its loss is below `threshold`: Lee et al. 2015, "Deeply-Supervised Nets".

    >>> hinge(0.5)({"main": torch.tensor(2.0), "layer1": torch.tensor(0.4), "layer2": torch.tensor(0.9)})
    {'layer1': 0.0}
    """

    def rule(values: dict[str, Tensor]) -> dict[str, float]:
        return {name: 0.0 for name, value in values.items() if name != MAIN and float(value) < threshold}

    return rule
