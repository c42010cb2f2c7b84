"""Latent prediction: a predictor head guesses the features of a target encoder at masked or at future positions."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary import losses
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._select import first_tensor, pick
from charladder.auxiliary._target_sources import TargetSource
from charladder.auxiliary._term import Term
from charladder.auxiliary.heads import HeadFactory
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.presets._early_end import until
from charladder.auxiliary.weights import Weight


@checked
def latent_prediction(
    tap: str,
    target: TargetSource,
    predictor: nn.Module | HeadFactory,
    *,
    ahead: int = 0,
    loss: Callable[[Tensor, Tensor], Tensor] = losses.smooth_l1,
    normalize: bool = True,
    weight: Weight = 1.0,
    end: float | None = None,
    select: Any = None,
    **fields: Any,
) -> Term:
    """Latent prediction as in JEPA: a predictor's output against the features of a target encoder.

    Assran et al. 2023 (CVPR, arXiv 2301.08243), "Self-Supervised Learning from Images with a Joint-Embedding Predictive
    Architecture", section 3. Rule: the distance of predictor(context features) to the features of a target encoder, at
    the masked positions, without a gradient into the target. The target encoder is a moving average (EMA) of the
    encoder. The paper has the mean squared distance; its code has smooth L1, target features with layer norm, and an
    EMA decay that rises from 0.996 to 1. Here the model reads the masked input in full length, as in data2vec
    (Baevski et al. 2022), where I-JEPA's encoder reads only the visible patches.
    Found: features of images without augmentations, at less compute than pixel reconstruction. Against it: a constant
    encoder minimises the loss (collapse); the EMA target, the stop-gradient and the predictor avoid it, but guarantee
    nothing, and a loss that falls does not show that features are useful. In small language models no gain was found:
    1.1896 bits per byte with an EMA target, 1.1841 without (11 layers, openai/parameter-golf, pull request 896); and 22
    such losses in fine-tuning of a 1B model changed the hidden states, and accuracy not significantly (arXiv
    2605.15394). LLM-JEPA (arXiv 2509.14252) reports gains with pairs of views (text and code).

    tap, select, fields: as in Term. target: aux.frozen(ema, tap=..., inputs=...) or aux.tapped(...), (B, T, D).
    predictor: a module or a function of a shape, to (B, T, D). ahead: the distance k of future positions: position t
    predicts the target at t + k, so T - k positions count; 0 for the same position. loss: losses.smooth_l1 or cosine,
    or your own with a value per position. normalize: layer norm (without parameters) of the target. Give mask= for the
    positions that count: of shape (B, T - ahead). end: the progress at which the term ends; None for never.
    Raises AuxiliaryError for an `ahead` below 0.

    >>> import torch
    >>> from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10))
    >>> ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.996))
    >>> target = aux.frozen(ema, inputs="whole", tap="1")
    >>> latent = latent_prediction("1", target, nn.Linear(8, 8), mask="masked")
    >>> main = aux.Term(lambda logits, tokens: nn.functional.cross_entropy(logits.mT, tokens, reduction="none"))
    >>> objective = aux.Objective(main, {"latent": latent})
    >>> tokens, masked = torch.randint(1, 10, (2, 6)), torch.rand(2, 6) < 0.5
    >>> targets = {"main": tokens, "whole": tokens, "masked": masked}
    >>> report = objective(model, tokens.masked_fill(masked, 0), targets)
    >>> report.total.backward()
    >>> ema.update_parameters(model)  # after each step of the optimizer
    >>> int(report.terms["latent"].count) == int(masked.sum())
    True
    """
    if ahead < 0:
        raise AuxiliaryError(f"latent_prediction has ahead={ahead}; it must be at least 0")
    if ahead:
        if not isinstance(target, TargetSource):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AuxiliaryError(
                f"latent_prediction has ahead={ahead} and a target of type {type(target).__name__}; give aux.frozen(), "
                "aux.tapped() or aux.returned()"
            )
        select = partial(_positions, slice(None, -ahead), select)
        target = dataclasses.replace(target, select=partial(_positions, slice(ahead, None), target.select))
    return Term(
        partial(_to_normalized, loss) if normalize else loss,
        tap=tap,
        select=select,
        head=predictor,
        target=target,
        weight=until(weight, end),
        **fields,
    )


def _positions(positions: slice, select: Any, container: Any) -> Tensor:
    """The selected part of an output, (B, T, ...), at some of its T positions."""
    name, what = "latent_prediction", "the output"
    part = first_tensor(name, container, what) if select is None else pick(name, container, select, what)
    return part[:, positions]


def _to_normalized(loss: Callable[[Tensor, Tensor], Tensor], prediction: Tensor, target: Tensor) -> Tensor:
    """A loss against features with a mean of 0 and a variance of 1 in each position."""
    return loss(prediction, F.layer_norm(target, target.shape[-1:]))
