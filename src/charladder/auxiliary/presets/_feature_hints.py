"""Feature hints: a hidden layer predicts the features of a teacher. FitNets."""

from typing import Any

from torch import Tensor, nn

from charladder.auxiliary import losses
from charladder.auxiliary._target_sources import TargetSource
from charladder.auxiliary._term import Term
from charladder.auxiliary.heads import HeadFactory
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.presets._early_end import until
from charladder.auxiliary.weights import Weight


@checked
def feature_hint(
    tap: str,
    target: TargetSource,
    regressor: nn.Module | HeadFactory,
    *,
    weight: Weight = 1.0,
    end: float | None = None,
    **fields: Any,
) -> Term:
    """Hint: half the squared distance of a regressor's output to the features of a teacher's layer.

    Romero et al. 2015 (ICLR, arXiv 1412.6550), "FitNets: Hints for Thin Deep Nets", section 2.2. Rule:
    1/2 * ||hint - regressor(hidden)||² for each example, over all its features, so the weight depends on their number.
    In the paper this is a first stage of training, before distillation of the logits; `end` and a main weight of
    aux.schedules.step([0.0, 1.0], at=[end]) make it one. For feature maps the regressor is convolutional.
    Found: on CIFAR-10 a deeper, thinner student with about a tenth of the teacher's parameters exceeds the teacher.
    Against it: on CIFAR-100, hints alone are worse than distillation of logits (Tian et al. 2020, arXiv 1910.10699;
    from memory, unconfirmed).

    tap, fields: as in Term. target: aux.frozen(teacher, tap="layer3") or aux.tapped(...). regressor: a module, or a
    function of a shape such as heads.linear(F), whose output has the shape of the target (B, ...).

    >>> import torch
    >>> from charladder import auxiliary as aux
    >>> student, teacher = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), nn.Sequential(nn.Linear(4, 32), nn.Tanh())
    >>> hint = feature_hint("0", aux.frozen(teacher, tap="0"), nn.Linear(8, 32), weight=0.01, end=0.5)
    >>> objective = aux.Objective(aux.Term(nn.functional.cross_entropy), {"hint": hint})
    >>> report = objective(student, torch.randn(6, 4), torch.randint(3, (6,)), progress=0.2)
    >>> report.terms["hint"].weight
    0.01
    """
    return Term(_half_squared_distance, tap=tap, head=regressor, target=target, weight=until(weight, end), **fields)


def _half_squared_distance(prediction: Tensor, target: Tensor) -> Tensor:
    return losses.squared_distance(prediction, target) / 2
