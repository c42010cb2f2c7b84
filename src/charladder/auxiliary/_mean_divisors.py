"""The divisors of the means that torch's losses return.

The number of predictions behind a mean is known only for torch's losses: another function may shift or ignore labels.
"""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

# Means over the labels that are not `ignore_index`, weighted by the `weight` of their classes.
LABEL_LOSSES: dict[Callable[..., Tensor], type[nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.nll_loss: nn.NLLLoss,
}
# Means over the elements of the target, or over its rows, which all have as many.
ELEMENT_LOSSES: dict[Callable[..., Tensor], type[nn.Module]] = {
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
WEIGHTED_LOSSES = (F.huber_loss, F.l1_loss, F.mse_loss)  # means over the sum of their `weight`, if one is given
LEGACY_ARGUMENTS = {"size_average", "reduce"}  # of torch before `reduction`

_TORCH_LOSS = nn.modules.loss._Loss  # pyright: ignore[reportPrivateUsage]
_FUNCTIONS = {id(function): function for function in LABEL_LOSSES | ELEMENT_LOSSES}
_MODULES = {module: function for function, module in (LABEL_LOSSES | ELEMENT_LOSSES).items()}


def torch_function(loss: Any) -> Callable[..., Tensor] | None:
    """The function of torch that a loss calls: itself, with arguments bound, or as a module. None for others."""
    if id(loss) in _FUNCTIONS:
        return loss
    if isinstance(loss, FunctionType):
        return None
    if isinstance(loss, functools.partial):
        bound = cast("functools.partial[Any]", loss)
        is_plain = not bound.args and not LEGACY_ARGUMENTS & bound.keywords.keys()
        return _FUNCTIONS.get(id(bound.func)) if is_plain else None
    cls = cast("Any", type(loss))
    for kind in cls.__mro__:
        if kind in _MODULES and cls.forward is kind.forward:
            return _MODULES[kind]
    return None


def loss_option(loss: Any, name: str) -> Any:
    """The `ignore_index`, `weight` or `reduction` of a torch loss, as a module or with its arguments bound."""
    if isinstance(loss, FunctionType):
        return None
    if isinstance(loss, functools.partial):
        return loss.keywords.get(name)
    return getattr(loss, name, None) if isinstance(loss, _TORCH_LOSS) else None


def returns_mean(loss: Any) -> bool:
    """Whether a loss is one of torch's that returns a mean, whose divisor is `mean_divisor`."""
    return torch_function(loss) is not None and loss_option(loss, "reduction") in (None, "mean", "batchmean")


def may_ignore_labels(loss: Any) -> bool:
    """Whether a loss may ignore labels; of torch's losses, those of classes do."""
    function = torch_function(loss)
    return function is None or function in LABEL_LOSSES


def mean_divisor(loss: Any, target: Tensor, where: Tensor | None) -> int | float | Tensor:
    """The divisor of the mean that a torch loss returns, or a constant multiple of it.

    where: mask of the labels that are not ignored; None for all.
    """
    weight, function = loss_option(loss, "weight"), torch_function(loss)
    if function in LABEL_LOSSES and weight is not None and not target.is_floating_point():
        labels = target if where is None else target[where]
        return weight.double()[labels.long()].sum()
    if function in WEIGHTED_LOSSES and weight is not None:
        return weight.double().sum()
    if loss_option(loss, "reduction") == "batchmean":
        return len(target)
    return target.numel() if where is None else where.sum()
