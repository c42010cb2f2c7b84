"""What the mean that a loss of torch returns is divided by.

Of torch's losses it is known how many predictions a scalar is the mean of. Of any other function it is not known: it
may shift its labels, or ignore some of them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# Means over the labels that are not `ignore_index`, weighed by the labels' `weight`.
LABELS: dict[Any, Any] = {F.cross_entropy: nn.CrossEntropyLoss, F.nll_loss: nn.NLLLoss}
# Means over the elements of the target, or over its rows, which all have as many.
ELEMENTS: dict[Any, Any] = {
    F.binary_cross_entropy: nn.BCELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.gaussian_nll_loss: nn.GaussianNLLLoss,
    F.hinge_embedding_loss: nn.HingeEmbeddingLoss,
    F.huber_loss: nn.HuberLoss,
    F.kl_div: nn.KLDivLoss,
    F.l1_loss: nn.L1Loss,
    F.mse_loss: nn.MSELoss,
    F.multi_margin_loss: nn.MultiMarginLoss,
    F.multilabel_margin_loss: nn.MultiLabelMarginLoss,
    F.multilabel_soft_margin_loss: nn.MultiLabelSoftMarginLoss,
    F.poisson_nll_loss: nn.PoissonNLLLoss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.soft_margin_loss: nn.SoftMarginLoss,
}
WEIGHED = (F.huber_loss, F.l1_loss, F.mse_loss)  # means over the sum of their `weight`, where one is given
LEGACY = {"size_average", "reduce"}  # what torch had before `reduction`

_FUNCTIONS = {id(function): function for function in LABELS | ELEMENTS}
_MODULES = {module: function for function, module in (LABELS | ELEMENTS).items()}


def function_of(loss: Any) -> Callable[..., Tensor] | None:
    """The function of torch that a loss is: plain, with keyword arguments bound, or as a module. None for another."""
    if id(loss) in _FUNCTIONS:
        return loss
    if isinstance(loss, functools.partial):
        plain = not loss.args and not LEGACY & loss.keywords.keys()
        return _FUNCTIONS.get(id(loss.func)) if plain else None
    for kind in type(loss).__mro__:
        if kind in _MODULES and type(loss).forward is kind.forward:
            return _MODULES[kind]
    return None


def option(loss: Any, name: str) -> Any:
    """The `ignore_index`, `weight` or `reduction` of a loss of torch's, as a module or with its arguments bound."""
    if isinstance(loss, functools.partial):
        return loss.keywords.get(name)
    return getattr(loss, name, None) if isinstance(loss, nn.modules.loss._Loss) else None


def averages(loss: Any) -> bool:
    """Whether a loss is one of torch's that returns a mean, over what `divisor` says."""
    return function_of(loss) is not None and option(loss, "reduction") in (None, "mean", "batchmean")


def ignores_labels(loss: Any) -> bool:
    """Whether a loss may ignore labels; of torch's losses, those of classes do."""
    found = function_of(loss)
    return found is None or found in LABELS


def divisor(loss: Any, target: Tensor, where: Tensor | None) -> int | float | Tensor:
    """What the mean is divided by that a loss of torch returns. where: which labels are not ignored; None for all."""
    weight, found = option(loss, "weight"), function_of(loss)
    if found in LABELS and weight is not None and where is not None:
        return weight.double()[target[where].long()].sum()
    if found in WEIGHED and weight is not None:
        return weight.double().sum()
    if option(loss, "reduction") == "batchmean":
        return len(target)
    return target.numel() if where is None else where.sum()
