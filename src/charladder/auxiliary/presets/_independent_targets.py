"""Independent heads for tokens further ahead, adjacent or at a stride."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import MAIN, Term
from charladder.auxiliary.presets._arguments import checked
from charladder.auxiliary.presets._upcoming_tokens import token_cross_entropy, upcoming
from charladder.auxiliary.weights import Weight


@checked
def independent_targets(
    tap: str,
    heads: Mapping[int, nn.Module],
    unembedding: nn.Module | None = None,
    *,
    weight: Weight = "multi_token",
    labels: str = MAIN,
    shifted: bool = True,
    **fields: Any,
) -> dict[str, Term]:
    """A head of its own for each further token: the token k positions ahead, with cross-entropy.

    Gloeckle et al. 2024 (ICML, arXiv 2404.19737), "Better & Faster Large Language Models via Multi-token Prediction",
    section 2. Rule: the sum over k of the cross-entropy of the token k ahead; a head is one transformer layer, and the
    model's unembedding is shared. The heads do not see each other's tokens.
    Found: a 13B model solves 12% more problems of HumanEval and 17% more of MBPP, and writes up to 3 times faster with
    drafts. Against it: the gain grows with the size, and small models lose. In pretraining up to 7B, Zuhri et al. 2025
    (arXiv 2508.19228) find inconsistent gains on general benchmarks.

    tap: the module whose output (B, T, D) the heads read. heads: by offset k (2 is the token after the next), a module
    that maps the output to (B, T, D), for example a causal transformer layer; without `unembedding`, to logits
    (B, T, V). unembedding: the model's module from (B, T, D) to logits, which all heads share; the objective trains it
    and does not save it. weight: of each term. labels: the entry of `targets` with the labels (B, T), if `targets` is a
    mapping; -100 does not count. shifted: the label of a position is its next token; False: its own token, as in
    transformers. The last k - 1 positions of a sequence have no label for offset k. fields: as in Term. The terms are
    called target2, target3 and so on.
    Raises AuxiliaryError for no heads, and for an offset below 2.

    >>> import torch
    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10))
    >>> terms = independent_targets("1", {2: nn.Linear(8, 8), 3: nn.Linear(8, 8)}, model[2])
    >>> main = aux.Term(lambda logits, labels: nn.functional.cross_entropy(logits.mT, labels, reduction="none"))
    >>> tokens = torch.randint(10, (2, 7))
    >>> report = aux.Objective(main, terms, model=model)(model, tokens[:, :-1], tokens[:, 1:])
    >>> [(name, int(term.count)) for name, term in report.terms.items()]
    [('main', 12), ('target2', 10), ('target3', 8)]
    """
    return _terms("independent_targets", tap, heads, unembedding, weight, labels, shifted, fields)


@checked
def leap_targets(
    tap: str,
    heads: Sequence[nn.Module],
    unembedding: nn.Module | None = None,
    *,
    stride: int = 2,
    weight: Weight = 1.0,
    labels: str = MAIN,
    shifted: bool = True,
    **fields: Any,
) -> dict[str, Term]:
    """Independent heads at a stride s: head i predicts the token 1 + s i positions ahead.

    Liu et al. 2025 (NeurIPS, arXiv 2505.17505), "L-MTP: Leap Multi-Token Prediction Beyond Adjacent Context for Large
    Language Models". Rule: the cross-entropy of the tokens t + 1, t + 1 + s, t + 1 + 2 s and so on; tokens between are
    skipped. The authors' heads are residual layers with an unembedding each, a copy of the model's (as in Medusa), for
    models that are trained already; the heads are trained first, and then all.
    Found: the authors report better results and faster decoding, which fills the gaps from earlier passes, after
    fine-tuning of models with 3B to 12B parameters. Against it: we know of no trial in pretraining.

    heads: in order; a stride of 2 gives target3, target5 and so on. weight: of each term. Else as independent_targets.
    Raises AuxiliaryError for no heads, and for a stride below 1.

    >>> list(leap_targets("1", [nn.Linear(8, 10), nn.Linear(8, 10)], stride=3))
    ['target4', 'target7']
    """
    if stride < 1:
        raise AuxiliaryError(f"leap_targets has stride={stride}; it must be at least 1, for adjacent tokens")
    by_offset = {1 + stride * number: head for number, head in enumerate(heads, 1)}
    return _terms("leap_targets", tap, by_offset, unembedding, weight, labels, shifted, fields)


def _terms(
    preset: str,
    tap: str,
    heads: Mapping[int, nn.Module],
    unembedding: nn.Module | None,
    weight: Weight,
    labels: str,
    shifted: bool,
    fields: dict[str, Any],
) -> dict[str, Term]:
    if not heads or min(heads) < 2:
        raise AuxiliaryError(
            f"{preset} has heads for the offsets {sorted(heads)}; give at least one, for offsets from 2 on, because "
            "the main term predicts the next token"
        )
    terms: dict[str, Term] = {}
    for place, offset in enumerate(sorted(heads), 2):
        head = heads[offset] if unembedding is None else nn.Sequential(heads[offset], unembedding)
        terms[f"target{offset}"] = Term(
            token_cross_entropy,
            tap=tap,
            head=head,
            weight=weight,
            target=partial(upcoming, preset, labels, offset, shifted),
            offset=place,
            offsets=len(heads) + 1,
            **fields,
        )
    return terms
