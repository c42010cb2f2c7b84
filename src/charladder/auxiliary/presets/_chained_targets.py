"""Chained modules for tokens further ahead.

Letters of shapes: B sequences, T positions, D features, V tokens of the vocabulary.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary._counts import IGNORE_INDEX, is_readable
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._select import pick
from charladder.auxiliary._term import MAIN, Term
from charladder.auxiliary.heads import ChainedModule
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.presets._upcoming_tokens import read_labels, shift, token_cross_entropy
from charladder.auxiliary.weights import Weight


@checked
def chained_targets(
    tap: str,
    modules: Sequence[ChainedModule],
    embedding: nn.Module,
    unembedding: nn.Module,
    *,
    weight: Weight = "deepseek",
    labels: str = MAIN,
    tokens: str | None = None,
    shifted: bool = True,
    **fields: Any,
) -> Term:
    """Chained modules: that of offset k reads the state of offset k - 1 and the token before the one it predicts.

    DeepSeek-AI 2024 (arXiv 2412.19437), "DeepSeek-V3 Technical Report", section 2.2, equations 21 to 25. Rule:
    h_k[t] = Block_k(Linear(concat(RMSNorm(h_{k-1}[t]), RMSNorm(embedding of token t + k - 1)))), where h_1 is the state
    of the model, and the cross-entropy of the token t + k from the model's output head; the mean over the offsets has
    the weight 0.3, later 0.1. Embedding and output head are the model's.
    Found: with one module, most benchmarks of their ablation are better, at the same cost of inference (table 4), and
    85 to 90% of the second tokens are accepted as drafts. Against it: Zuhri et al. 2025 (arXiv 2508.19228) find it
    behind a ranking loss (`token_order`) on nine benchmarks, up to 7B.

    tap: the module whose output (B, T, D) is h_1. modules: for the offsets 2, 3 and so on: `aux.heads.ChainedModule`,
    each with a causal layer of your own. embedding: the model's, from token ids to (B, T, D). unembedding: the model's
    norm and output layer, from (B, T, D) to logits. weight: of the term, which is the sum of its parts, one for each
    offset; "deepseek" is divided by their number, and needs progress in the call. labels, shifted: as in
    independent_targets. tokens: the entry of `targets` with the token ids (B, T) that the model reads. Without it they
    are taken from the labels, and then no label may be -100 before the end of its sequence. Sequences that are shorter
    than T are padded on the right. fields: as in Term.
    The term has the parts target2, target3 and so on; the last k - 1 positions have no label for offset k.
    Raises AuxiliaryError for no modules, and for one that does not take a state and an embedded token; and in a call,
    for labels that are -100 before others without `tokens`, and for tokens below 0. Where values are not read, on
    accelerators and under torch.compile, the loss is NaN instead.

    >>> import torch
    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10))
    >>> modules = [aux.heads.ChainedModule(8, nn.Linear(8, 8)) for _ in range(2)]  # a causal layer for the Linear
    >>> chain = chained_targets("1", modules, model[0], model[2])
    >>> main = aux.Term(lambda logits, labels: nn.functional.cross_entropy(logits.mT, labels, reduction="none"))
    >>> ids = torch.randint(10, (2, 7))
    >>> objective = aux.Objective(main, {"chain": chain}, model=model)
    >>> report = objective(model, ids[:, :-1], ids[:, 1:], progress=0.0)
    >>> [(name, int(part.count)) for name, part in report.terms["chain"].parts.items()]
    [('target2', 10), ('target3', 8)]
    """
    if not modules:
        raise AuxiliaryError("chained_targets has no modules; give one for each further token")
    for module in modules:
        _check_forward(module)
    offsets = range(2, len(modules) + 2)
    own: dict[str, Any] = {
        "parts": {_part(offset): 1.0 for offset in offsets},
        "count": partial(_counts, offsets, shifted),
        "target": partial(_read, labels, tokens),
        "offset": 2,
        "offsets": len(modules) + 1,
    }
    return Term(_ChainedLoss(modules, embedding, unembedding, shifted), tap=tap, weight=weight, **(own | fields))


class _ChainedLoss(nn.Module):
    """The losses of all offsets, from the state of the model and (labels, tokens)."""

    def __init__(
        self, modules: Sequence[ChainedModule], embedding: nn.Module, unembedding: nn.Module, shifted: bool
    ) -> None:
        super().__init__()
        self.chain, self.embedding, self.unembedding = nn.ModuleList(modules), embedding, unembedding
        self.shifted = shifted

    def forward(self, state_BTD: Tensor, target: tuple[Tensor, Tensor | None]) -> dict[str, tuple[Tensor, Tensor]]:
        labels_BT, tokens_BT = target
        next_BT = labels_BT if self.shifted else shift(labels_BT, 1)
        unknown = _has_unknown_tokens(next_BT, tokens_BT)
        losses: dict[str, tuple[Tensor, Tensor]] = {}
        for offset, module in enumerate(self.chain, 2):
            before_BT = shift(next_BT, offset - 2) if tokens_BT is None else shift(tokens_BT, offset - 1)
            # Where the label does not count, any token.
            state_BTD = module(state_BTD, self.embedding(before_BT.clamp(min=0)))
            total, count = token_cross_entropy(self.unembedding(state_BTD), shift(next_BT, offset - 1))
            losses[_part(offset)] = torch.where(unknown, torch.nan, total), count
        return losses


def _check_forward(module: nn.Module) -> None:
    """Raises AuxiliaryError for a module that does not take two arguments, by the signature of its forward."""
    try:
        inspect.signature(module.forward).bind(None, None)
    except TypeError:
        raise AuxiliaryError(
            f"chained_targets has a module of type {type(module).__name__}, which does not take a state and an "
            "embedded token; give aux.heads.ChainedModule"
        ) from None


def _part(offset: int) -> str:
    return f"target{offset}"


def _read(labels: str, tokens: str | None, targets: Any) -> tuple[Tensor, Tensor | None]:
    """The labels, and the tokens if `targets` has them."""
    found = read_labels("chained_targets", labels, targets)
    if tokens is None:
        return found, None
    ids = pick("chained_targets", targets, tokens, "targets", "tokens")
    if not isinstance(ids, Tensor) or ids.shape != found.shape:
        raise AuxiliaryError(
            f"chained_targets: the tokens have the shape {getattr(ids, 'shape', type(ids).__name__)}, and the labels "
            f"{tuple(found.shape)}; give the ids that the model reads, one for each label"
        )
    return found, ids


def _has_unknown_tokens(next_BT: Tensor, tokens_BT: Tensor | None) -> Tensor:
    """Whether the modules would read a token that is not known, a scalar. Raises AuxiliaryError where it is read."""
    if tokens_BT is not None:
        unknown, said = (tokens_BT < 0).any(), "the tokens have ids below 0; give the ids that the model reads"
    else:
        # Causal modules also read it at all later positions, so leaving out some positions would not be enough.
        ignored_BT = next_BT == IGNORE_INDEX
        unknown = (ignored_BT[:, :-1] & ~ignored_BT[:, 1:]).any()
        said = (
            f"a label is {IGNORE_INDEX} before others of its sequence, so the token that the modules read there is not "
            "known; say with tokens= which part of targets has the ids that the model reads"
        )
    if is_readable(unknown) and bool(unknown):
        raise AuxiliaryError(f"chained_targets: {said}")
    return unknown


def _counts(offsets: range, shifted: bool, target: tuple[Tensor, Tensor | None]) -> Mapping[str, Tensor]:
    """The number of labels of each offset."""
    labels_BT = target[0]
    return {
        _part(offset): (shift(labels_BT, offset - 1 if shifted else offset) != IGNORE_INDEX).sum() for offset in offsets
    }
