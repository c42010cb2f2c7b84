"""Deep supervision of segmentation: a loss at every resolution of the decoder, with labels resized to each of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._select import pick
from charladder.auxiliary._term import MAIN, Term
from charladder.auxiliary.presets._arguments import checked

Factor = float | Sequence[float]


@checked
def nnunet(
    loss: Callable[..., Any], scales: int | Sequence[Factor], *, target: Any = None, **fields: Any
) -> dict[str, Any]:
    """Weights 1, 1/2, 1/4 ... and 0 for the lowest resolution, divided by their sum.

    Isensee et al. 2021, "nnU-Net", and its program, version 2. Under DDP the program takes 1e-6 for the lowest
    resolution; here the term is inactive.
    Found: it is a part of a method that was best on most of the data sets it was tried on; the paper has no trial
    without it.
    See `deep_supervision` for the arguments and what it returns.

    >>> from charladder import auxiliary as aux
    >>> terms = aux.presets.nnunet(F.cross_entropy, scales=4)
    >>> [round(term.weight, 3) for term in (terms["main"], *terms["auxiliary"].values())]
    [0.571, 0.286, 0.143, 0.0]
    """
    factors = _factors(scales)
    halves = [2.0**-place for place in range(len(factors))]
    if len(halves) > 1:
        halves[-1] = 0.0
    weights = [half / sum(halves) for half in halves]
    return deep_supervision(loss, scales, weights, target=target, **fields)


@checked
def monai(
    loss: Callable[..., Any],
    scales: int | Sequence[Factor],
    mode: Literal["exp", "same", "two"] = "exp",
    *,
    target: Any = None,
    **fields: Any,
) -> dict[str, Any]:
    """The weights of MONAI's DeepSupervisionLoss: "exp" 1, 1/2, 1/4, 1/8, then 1/16; "same" 1; "two" 1, then 1/2.

    Found: MONAI cites no trial. See `deep_supervision` for the other arguments and what it returns.
    """
    rules: dict[str, Callable[[int], float]] = {
        "exp": lambda place: max(0.5**place, 0.0625),
        "same": lambda place: 1.0,
        "two": lambda place: 1.0 if place == 0 else 0.5,
    }
    if mode not in tuple(rules):  # also a mode that has no hash
        raise AuxiliaryError(f"monai() has the mode {mode!r}; there are exp, same and two")
    weights = [rules[mode](place) for place in range(len(_factors(scales)))]
    return deep_supervision(loss, scales, weights, target=target, **fields)


@checked
def deep_supervision(
    loss: Callable[..., Any],
    scales: int | Sequence[Factor],
    weights: Sequence[float],
    *,
    target: Any = None,
    **fields: Any,
) -> dict[str, Any]:
    """The terms of a model that returns a list of predictions, the highest resolution first.

    Returns `main` and `auxiliary` for an objective: `aux.Objective(**aux.presets.nnunet(F.cross_entropy, scales=4))`.
    The terms are `main`, `scale1`, `scale2` ...
    scales: the number of predictions, each of half the size of the one before; or the factor of each, a number or one
    for each spatial dimension. weights: of each. target: the part of `targets` that has the labels, as in Term; left
    out, `targets` itself. fields: of all terms.
    Labels are integers (B, ...) or (B, 1, ...), or floating-point numbers (B, C, ...). They are resized with
    "nearest-exact" to round(size * factor), as nnU-Net and MONAI do; the predictions must have these sizes.
    """
    factors = _factors(scales)
    if len(weights) != len(factors):
        raise AuxiliaryError(f"there are {len(weights)} weights for {len(factors)} scales; give one for each")
    names = [MAIN, *(f"scale{place}" for place in range(1, len(factors)))]
    terms: dict[str, Term] = {}
    for place, (name, factor, weight) in enumerate(zip(names, factors, weights, strict=True)):
        resized = partial(_resized_target, name, target, factor)
        defaults: dict[str, Any] = {"select": place, "weight": weight, "target": resized}
        terms[name] = Term(loss, **(defaults | fields))
    return {MAIN: terms.pop(MAIN), "auxiliary": terms}


def _factors(scales: int | Sequence[Factor]) -> list[Factor]:
    factors: list[Factor] = [2.0**-place for place in range(scales)] if isinstance(scales, int) else list(scales)
    if not factors:
        raise AuxiliaryError(f"there are no scales, because scales is {scales}; give at least one")
    return factors


def _resized_target(name: str, selector: Any, factor: Factor, targets: Any) -> Tensor:
    """The labels of a term, resized; a function of `targets`."""
    if selector is None and isinstance(targets, Mapping):
        raise AuxiliaryError("targets is a mapping; say which part has the labels with target=")
    labels = targets if selector is None else pick(name, targets, selector, "targets", "target")
    return resize_labels(labels, factor)


def resize_labels(labels: Tensor, factor: Factor) -> Tensor:
    """Labels resized to round(size * factor) in each spatial dimension, with "nearest-exact".

    labels: (B, ...), (B, 1, ...), or floating-point (B, C, ...). factor: a number, or one for each spatial dimension.

    >>> import torch
    >>> resize_labels(torch.arange(16).view(1, 4, 4), 0.5)
    tensor([[[ 5,  7],
             [13, 15]]])
    """
    channels = labels.is_floating_point() or (labels.ndim > 3 and labels.shape[1] == 1)
    dimensions = labels.ndim - (2 if channels else 1) if isinstance(factor, int | float) else len(factor)
    by_dimension = [factor] * dimensions if isinstance(factor, int | float) else list(factor)
    before = labels.shape[-dimensions:]
    size = [max(1, round(n * one)) for n, one in zip(before, by_dimension, strict=True)]
    if list(before) == size:
        return labels
    # Not defined for integers; numbers of classes are exact in float32.
    flat = labels.reshape(-1, 1, *before).float()
    resized = F.interpolate(flat, size=size, mode="nearest-exact")
    return resized.reshape(*labels.shape[:-dimensions], *size).to(labels.dtype)
