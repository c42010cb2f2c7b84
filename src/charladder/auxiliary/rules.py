"""Rules for Objective(rule=...): weights that depend on the losses.

A rule is a function from the values of the active terms (detached scalars, over all ranks, by name) to factors for
their weights, by name; the factor of a name that it leaves out is 1. A rule that also adds to the loss returns
(factors, penalty). Any function can be a rule; one with parameters or state is a module, and is trained and saved with
the objective. A rule with the attribute `takes_losses = True` gets a second argument: the weighted losses of the same
names, attached to the graph, divided as in the total.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from charladder.auxiliary._aggregate import Rule
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import MAIN
from charladder.auxiliary.gradients import of_losses


class Uncertainty(nn.Module):
    """sum of exp(-s_i) L_i + s_i / 2, with every s_i learned: Kendall et al. 2018, "Multi-Task Learning Using
    Uncertainty to Weigh Losses". `names`: the weighted terms, `main` too if it is named; s starts at 0.

    The weight of the term remains a factor: exp(-s_i) w_i L_i. An inactive term has no penalty, and its s stays.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.log_variance = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in self.names)

    def forward(self, values: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        _check_named("Uncertainty", values, self.names)
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


class GradNorm(nn.Module):
    """Weights that bring the gradient norms of all terms to a common size, and faster learners below it.

    Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
    equations 1 and 2. G_i is the norm of the gradient of w_i L_i for the parameters `shared`; r_i is L_i / L_i(0), over
    its mean over the terms. The learned factors w_i decrease the sum of |G_i - mean(G) r_i^alpha|, in which the second
    part is a constant; before each call they are scaled to a sum of the number of terms.
    Found: on NYUv2, better than equal weights, and as good as or better than a search over fixed weights.

    names: the terms, `main` too if it is named; the factor of others is 1. shared: parameters of the model that all of
    them use; the paper takes the last such layer. alpha: how strongly the terms are to train at one rate; the paper has
    1.5 for NYUv2. L_i(0) is the value in the first call with gradients.
    The factors are parameters of the objective: the optimizer trains them, and the total has the value of the weighted
    losses alone. A call costs a backward pass for each term, down to `shared`. With micro-batches, each call compares
    the gradients of its own.
    Raises AuxiliaryError for a term without a name here, a first loss of 0, a factor below 0, and parameters that no
    term uses or that FSDP2 shards.
    """

    takes_losses = True

    def __init__(self, names: Iterable[str], shared: Iterable[Tensor], alpha: float = 1.5) -> None:
        super().__init__()
        self.names, self.alpha = list(names), alpha
        self._shared = list(shared)  # a list, so that they are not parameters of this module
        self.factors = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in self.names)
        self.register_buffer("initial", torch.full((len(self.names),), torch.nan))

    def forward(self, values: dict[str, Tensor], losses: Mapping[str, Tensor]) -> Any:
        _check_named("GradNorm", values, self.names)
        active = {name: factor for name, factor in zip(self.names, self.factors, strict=True) if name in values}
        if not torch.is_grad_enabled() or not active:
            return {name: factor.detach() for name, factor in active.items()}
        self._normalize(active)
        rates = self._relative_rates({name: values[name] for name in active})
        gradients = of_losses({name: [losses[name]] for name in active}, self._shared)
        norms = {name: cast("Tensor", gradient.norm()) for name, gradient in gradients.items()}
        if not any(bool(norm > 0) for norm in norms.values()):
            raise AuxiliaryError("GradNorm: no term has a gradient for the shared parameters; give those of the model")
        mean = torch.stack([active[name].detach() * norm for name, norm in norms.items()]).mean()
        penalty = torch.stack(
            [(active[name] * norm - mean * rates[name] ** self.alpha).abs() for name, norm in norms.items()]
        ).sum()
        return {name: factor.detach().clone() for name, factor in active.items()}, penalty - penalty.detach()

    def _normalize(self, active: Mapping[str, nn.Parameter]) -> None:
        """Scales the factors of active terms to a sum of their number."""
        negative = [name for name, factor in active.items() if float(factor.detach()) <= 0]
        if negative:
            raise AuxiliaryError(f"GradNorm: the factor of {negative[0]!r} fell to 0; use a lower learning rate for it")
        with torch.no_grad():
            total = torch.stack(list(active.values())).sum()
            for factor in active.values():
                factor.mul_(len(active) / total)

    def _relative_rates(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """r_i of each term."""
        initial: Tensor = self.get_buffer("initial")
        ratios: dict[str, Tensor] = {}
        for index, name in enumerate(self.names):
            if name not in values:
                continue
            value = values[name].to(initial)
            if bool(initial[index].isnan()):
                initial[index] = value
            if float(initial[index]) == 0:
                raise AuxiliaryError(f"GradNorm divides by the first loss of {name!r}, which was 0; leave it out")
            ratios[name] = value / initial[index]
        mean = torch.stack(list(ratios.values())).mean()
        return {name: ratio / mean for name, ratio in ratios.items()}


def _check_named(rule: str, values: Iterable[str], names: list[str]) -> None:
    unknown = [name for name in values if name not in names and name != MAIN]
    if unknown:
        raise AuxiliaryError(f"{rule} does not know the term {unknown[0]!r}; name all of them when making it")


def hinge(threshold: float) -> Rule:
    """Drops an auxiliary term while its loss is below `threshold`: Lee et al. 2015, "Deeply-Supervised Nets".

    >>> hinge(0.5)({"main": torch.tensor(2.0), "layer1": torch.tensor(0.4), "layer2": torch.tensor(0.9)})
    {'layer1': 0.0}
    """

    def rule(values: dict[str, Tensor]) -> dict[str, float]:
        return {name: 0.0 for name, value in values.items() if name != MAIN and float(value) < threshold}

    return rule
