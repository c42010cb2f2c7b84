"""Auxiliary losses in torchtitan: a loss of its `BaseLoss` form, for models that return several predictions.

    config.loss = AuxiliaryLoss.Config(objective=make_objective)

torchtitan makes its loss before the model and gives it the model's output alone. So the terms read predictions that
the model returns (`select`); taps, and heads of the objective, are refused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from charladder.auxiliary._aggregate import measure_all
from charladder.auxiliary._counts import to_exact
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._measure import MeasuredLoss
from charladder.auxiliary._objective import Objective
from charladder.auxiliary._targets import ForwardPass
from charladder.auxiliary._term import MAIN

try:
    from torchtitan.components.loss import BaseLoss  # pyright: ignore
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"AuxiliaryLoss needs {error.name}: see torchtitan's page for its installation", name=error.name
    ) from error

__all__ = ["AuxiliaryLoss"]


class AuxiliaryLoss(BaseLoss):  # pyright: ignore
    """The weighted sum of an objective's terms, each the sum of its losses over `global_valid_tokens`.

    Config.objective: a function that makes the Objective. progress: of the training, for weights that depend on it; a
    Trainer sets it before each step, `self.loss_fn.progress = (self.step - 1) / self.config.training.steps`. A CUDA
    graph keeps the weights of its first step: with such weights, set `training.disable_cuda_graphs`.

    torchtitan adds up the losses of all ranks and micro-batches, so nothing is exchanged here. A term that has fewer
    predictions than there are valid tokens has that much less weight. The metrics are `NAME/mean` of each term, without
    its weight. In validation, without `global_valid_tokens`, the loss is the sum of the main term.
    Raises AuxiliaryError for terms with taps, for heads that are modules, and for a rule.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):  # pyright: ignore
        """objective: a function without arguments that makes the Objective."""

        objective: Callable[[], Objective]

    def __init__(self, config: Any, *, compile_config: Any = None) -> None:
        self.objective: Objective = config.objective()
        self.progress: float | None = None
        _check_objective(self.objective)

    def __call__(
        self, pred: Any, labels: Tensor, global_valid_tokens: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to call backward on, and the metrics of this rank and micro-batch.

        pred: what the model returned. labels (T): the targets of the terms. kwargs of the trainer are not used.
        """
        objective = self.objective
        validates = global_valid_tokens is None
        weights = {MAIN: 1.0} if validates else objective.weights(self.progress)
        active = {name: weight for name, weight in weights.items() if weight != 0 or objective.terms[name].measure}
        trained = {name: weight != 0 for name, weight in active.items()}
        measured = measure_all(objective.terms, trained, {}, ForwardPass(pred, labels, {}, None))
        tokens = 1 if global_valid_tokens is None else global_valid_tokens
        losses = {name: torch.stack([_sum(part) for part in parts]).sum() / tokens for name, parts in measured.items()}
        total = torch.zeros((), device=labels.device)
        for name, loss in losses.items():
            total = total + weights[name] * loss if trained[name] else total
        return total, {} if validates else {f"{name}/mean": loss.detach() for name, loss in losses.items()}


def _sum(part: MeasuredLoss) -> Tensor:
    """The sum of the losses of a term, or of one of its parts, times its weight in the term."""
    count = torch.as_tensor(to_exact(part.count)).to(part.loss) if part.mean else 1
    return part.loss * count * part.weight


def _check_objective(objective: Objective) -> None:
    for name, term in objective.terms.items():
        if term.tapped_names:
            raise AuxiliaryError(
                f"term {name!r} reads the module {term.tapped_names[0]}, and torchtitan gives its loss the model's "
                "output alone; let the model return the prediction, and choose it with Term(select=...)"
            )
        if term.head is not None or next(objective.parameters(), None) is not None:
            raise AuxiliaryError(
                f"term {name!r}: the optimizer of torchtitan has the parameters of the model alone, so a head or loss "
                "with parameters would not be trained; make it a part of the model"
            )
    if objective.rule is not None:
        raise AuxiliaryError("a rule needs the losses of all ranks, which the loss of torchtitan does not have")
