"""Self-distillation: the deepest classifier of a network teaches the classifiers of its intermediate layers."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary import losses
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._select import is_tuple_or_list
from charladder.auxiliary._target_sources import TargetSource, returned
from charladder.auxiliary._term import MAIN, Term
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.presets._early_end import until


@checked
def self_distillation(
    exits: Mapping[str, nn.Module],
    *,
    teacher: TargetSource | None = None,
    features: TargetSource | None = None,
    alpha: float = 0.3,
    hint: float = 0.03,
    temperature: float = 3.0,
    labels: str = MAIN,
    mask: Any = None,
    end: float | None = None,
) -> dict[str, Term]:
    """Self-distillation: each exit learns the labels, the output of the deepest classifier, and its features.

    Zhang et al. 2019 (ICCV, arXiv 1905.08094), "Be Your Own Teacher: Improve the Performance of Convolutional Neural
    Networks via Self Distillation", section 3. Rule, for the exit of each tap:
    (1 - alpha) * cross_entropy(q, y) + alpha * KL(q_T || deepest q_T) + hint * ||f - deepest f||², where q_T is the
    softmax of logits / temperature; the deepest classifier has the cross-entropy alone (the main term), and no gradient
    flows into what it teaches. KL is that of the deepest distribution from the exit's, without the factor temperature²
    of `losses.kl`. The defaults are those of the authors' code for the journal version, which trains with autoaugment,
    takes the distance instead of its square, and gives no hint to the shallowest exit.
    Found: CIFAR-100 accuracy of the deepest classifier 2.65 points higher on average, from 0.61 (ResNeXt) to 4.07
    (VGG19). Against it: all of these are CNNs. A public reimplementation with other coefficients (alpha 0.1, hint 1e-6)
    finds 78.73 instead of the paper's 78.64 for ResNet18, and 80.64 instead of 80.56 for ResNet50. Exits at every layer
    of a language model can harm its last layer (see docs/auxiliary.md, "When they hurt").

    exits: by tap, the classifier of the exit: a module that returns logits (..., V), or with `features` a pair
    (features, logits). Each runs once for its terms. teacher: the logits of the deepest classifier; the model's output
    unless given. features: its features, for example aux.tapped("pool"); without them there is no hint. labels: the
    entry of `targets` with the labels, if `targets` is a mapping; -100 is ignored. mask: the positions where the
    deepest classifier and its features teach, as in Term; all of them unless given. end: the progress at which all
    terms end; None for never. The terms are called "tap.labels", "tap.teacher" and "tap.hint".
    Raises AuxiliaryError for an exit that is no module, and for an alpha outside [0, 1].

    >>> import torch
    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> terms = self_distillation({"0": nn.Linear(8, 3)})
    >>> objective = aux.Objective(aux.Term(nn.functional.cross_entropy), terms)
    >>> report = objective(model, torch.randn(6, 4), torch.randint(3, (6,)))
    >>> [(name, term.weight) for name, term in report.terms.items()]
    [('main', 1.0), ('0.labels', 0.7), ('0.teacher', 0.3)]
    """
    if not 0 <= alpha <= 1:
        raise AuxiliaryError(f"self_distillation has alpha {alpha}; it must lie in [0, 1]")
    soft = partial(_soft_kl, temperature)
    terms: dict[str, Term] = {}
    for tap, head in exits.items():
        shared: dict[str, Any] = {"tap": tap, "head": head}
        terms[f"{tap}.labels"] = Term(
            partial(_on_logits, _label_loss), weight=until(1 - alpha, end), target_name=labels, **shared
        )
        terms[f"{tap}.teacher"] = Term(
            partial(_on_logits, soft), weight=until(alpha, end), target=teacher or returned(), mask=mask, **shared
        )
        if features is not None:
            terms[f"{tap}.hint"] = Term(
                _feature_distance, weight=until(hint, end), target=features, mask=mask, **shared
            )
    return terms


def _on_logits(loss: Callable[[Tensor, Tensor], Tensor], prediction: Any, target: Tensor) -> Tensor:
    """A loss of the logits that an exit returns, alone or behind its features."""
    return loss(prediction[-1] if is_tuple_or_list(prediction) else prediction, target)


def _label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each label, in the shape of the labels."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view_as(labels)


def _soft_kl(temperature: float, logits: Tensor, target: Tensor) -> Tensor:
    return losses.kl(logits, target, temperature) / temperature**2


def _feature_distance(prediction: Any, target: Tensor) -> Tensor:
    if not is_tuple_or_list(prediction) or len(prediction) != 2:
        raise AuxiliaryError("an exit with a hint returns a pair (features, logits)")
    return losses.squared_distance(prediction[0], target)
