"""From logits to the distribution that is sampled, and from a distribution to a character.

Shapes: B sequences, V symbols.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from charladder.errors import UserError

MIN_TEMPERATURE = 1e-6
NOT_FINITE = "the network gives NaN for the next character; its weights are broken, train it again"


@dataclass(frozen=True)
class SamplingParams:
    """How the model's distribution is changed before a character is drawn.

    temperature: logits are divided by it; 0 is greedy. top_k: only the k likeliest (0: all). top_p: only the fewest
    likeliest whose probabilities reach p (1: all). min_p: only those at least min_p times as likely as the likeliest.
    They apply in this order, each to what the one before left, renormalised.

    coupled: how random numbers are used. False: drafts are verified by rejection sampling, which accepts the most of
    them; the text of a seed then depends on what was drafted, though its distribution does not. True: every symbol has
    at every position its own exponential random number, and the symbol that is likely and whose number is small wins.
    Drafter and network mostly agree on it, and the text of a seed is the same whatever is drafted (Daliri et al. 2024;
    also known as Gumbel coupling).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    coupled: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(field="temperature", value=self.temperature, rule="it must be at least 0 (0 is greedy)")
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise UserError(
                field="temperature", value=self.temperature,
                rule=f"give 0, which is greedy, or at least {MIN_TEMPERATURE:g}",
            )  # fmt: skip
        if self.top_k < 0:
            raise UserError(field="top_k", value=self.top_k, rule="it must be at least 0 (0 takes all)")
        if not 0 < self.top_p <= 1:
            raise UserError(field="top_p", value=self.top_p, rule="it must be above 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise UserError(field="min_p", value=self.min_p, rule="it must be between 0 and 1")


def distribution(logits_BV: Tensor, sampling: SamplingParams) -> Tensor:
    """Probabilities (B, V) in float64, from which the next character is drawn.
    Raises UserError for logits that are no finite numbers."""
    if not torch.isfinite(logits_BV).all():
        raise UserError(NOT_FINITE)
    logits_BV = logits_BV.double()
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits_BV.argmax(-1), logits_BV.shape[-1]).double()
    p_BV = (logits_BV / sampling.temperature).softmax(-1)
    if sampling.top_k:
        order = p_BV.sort(stable=True, dim=-1, descending=True).indices
        p_BV = renormalise(p_BV.scatter(-1, order[:, sampling.top_k :], 0.0))
    if sampling.top_p < 1:
        sorted_BV, order = p_BV.sort(stable=True, dim=-1, descending=True)
        beyond = sorted_BV.cumsum(-1) - sorted_BV >= sampling.top_p
        p_BV = renormalise(p_BV.scatter(-1, order, sorted_BV.masked_fill(beyond, 0.0)))
    if sampling.min_p:
        least = sampling.min_p * p_BV.max(-1, keepdim=True).values
        p_BV = renormalise(p_BV.masked_fill(p_BV < least, 0.0))
    return p_BV


def renormalise(p_BV: Tensor) -> Tensor:
    return p_BV / p_BV.sum(-1, keepdim=True)


def top_candidates(logits_BV: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """For each row so many symbols, the likeliest first, with their log-probabilities by the model, in nats."""
    best = logits_BV.double().log_softmax(-1).topk(min(count, logits_BV.shape[-1]))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [list(zip(ids, nats, strict=True)) for ids, nats in rows]
