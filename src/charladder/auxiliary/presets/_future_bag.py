"""Bag of words of the future: which tokens come within a window, in any order.

Letters of shapes: B sequences, T positions, V tokens of the vocabulary.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.auxiliary._counts import IGNORE_INDEX
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import MAIN, Term
from charladder.auxiliary.heads import HeadFactory
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.presets._token_order import sum_of_window
from charladder.auxiliary.presets._upcoming_tokens import shift, upcoming
from charladder.auxiliary.weights import Weight


@checked
def future_bag(
    tap: str,
    head: nn.Module | HeadFactory | str,
    window: int,
    *,
    first: int = 1,
    token_weights: Tensor | None = None,
    weight: Weight = 1.0,
    labels: str = MAIN,
    shifted: bool = True,
    **fields: Any,
) -> Term:
    """The bag of words of the next `window` tokens: for every token of the vocabulary, whether it comes.

    Mahajan et al. 2025 (ICLR 2026, arXiv 2510.14751), "Beyond Multi-Token Prediction: Pretraining LLMs with Future
    Summaries", the variant with handcrafted summaries. Rule: binary cross-entropy of a multi-hot target over the
    vocabulary, from one head; here its mean over the vocabulary.
    Found: with 3B and 8B parameters, future summaries are better than next-token and multi-token prediction in
    mathematics, reasoning and code. Against it: the paper's second variant, whose summaries come from a language model
    that reads backwards, is not this preset; and frequent tokens are in almost every bag.

    tap: the module whose output (B, T, D) the head reads. head: to logits (B, T, V), for example `aux.heads.linear(V)`.
    first: the offset of the first token of the bag; 2 leaves out the next token, which the main term predicts.
    token_weights: (V,), a factor for each token of the vocabulary. labels, shifted: as in independent_targets. At the
    end of a sequence the bag has the tokens that are there, and a position without any does not count. fields: as in
    Term. The target has B * T * V numbers, and takes one operation for each position of the window.
    Raises AuxiliaryError for a window or a `first` below 1.

    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10))
    >>> bag = future_bag("1", nn.Linear(8, 10), window=4, first=2)
    >>> main = aux.Term(lambda logits, labels: nn.functional.cross_entropy(logits.mT, labels, reduction="none"))
    >>> tokens = torch.randint(10, (2, 7))
    >>> report = aux.Objective(main, {"bag": bag})(model, tokens[:, :-1], tokens[:, 1:])
    >>> int(report.terms["bag"].count)
    10
    """
    if window < 1 or first < 1:
        raise AuxiliaryError(f"future_bag has window={window} and first={first}; both must be at least 1")
    return Term(
        partial(_bag_loss, window, token_weights),
        tap=tap,
        head=head,
        weight=weight,
        target=partial(upcoming, "future_bag", labels, first, shifted),
        count=partial(_count, window),
        **fields,
    )


def _bag_loss(window: int, token_weights: Tensor | None, logits_BTV: Tensor, first_BT: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))
    bag_BTV = torch.zeros_like(logits, requires_grad=False)
    for distance in range(window):
        token_BT1 = shift(first_BT, distance)[..., None]
        old_BT1 = bag_BTV.gather(-1, token_BT1.clamp(min=0))
        new_BT1 = torch.where(token_BT1 == IGNORE_INDEX, old_BT1, 1.0)
        bag_BTV = bag_BTV.scatter(-1, token_BT1.clamp(min=0), new_BT1)
    factors = None if token_weights is None else token_weights.to(logits)
    each_BTV = F.binary_cross_entropy_with_logits(logits, bag_BTV, factors, reduction="none")
    counts_BT = _has_token(window, first_BT)
    return (each_BTV.mean(-1) * counts_BT).sum(), counts_BT.sum()


def _has_token(window: int, first_BT: Tensor) -> Tensor:
    return sum_of_window((first_BT != IGNORE_INDEX).long(), window) > 0


def _count(window: int, first_BT: Tensor) -> Tensor:
    """The number of positions with a token in the window."""
    return _has_token(window, first_BT).sum()
