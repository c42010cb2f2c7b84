"""The distribution from which the next character is sampled.

Shapes: B sequences, V symbols.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from charladder.errors import UserError

MIN_TEMPERATURE = 1e-6
NOT_FINITE = "the network gives NaN for the next character; its weights are broken, train it again"


class NonFiniteLogits(UserError):
    """Logits are NaN or infinite."""

    def __init__(self) -> None:
        super().__init__(NOT_FINITE)


@dataclass(frozen=True)
class SamplingParams:
    """How the model's distribution is changed before sampling.

    temperature: divides the logits; 0 is greedy. top_k: keeps the k most likely symbols (0: all). top_p: keeps the
    fewest most likely symbols whose probabilities sum to at least p (1: all). min_p: keeps symbols at least min_p times
    as likely as the most likely one. They apply in this order, and probabilities are renormalised after each.

    coupled: how random numbers are used. False: drafts are verified by rejection sampling, which accepts the most
    drafts; the text of a seed then depends on the drafts, though its distribution does not. True: each symbol at each
    position has its own exponential random number, and the symbol with the smallest number divided by its probability
    is chosen. Drafter and network mostly choose the same symbol, and the text of a seed does not depend on the drafts
    (Daliri et al. 2024; also known as Gumbel coupling).
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
    """The sampling probabilities (B, V) in float64. Raises NonFiniteLogits."""
    if not torch.isfinite(logits_BV).all():
        raise NonFiniteLogits
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
    """For each row the `count` most likely symbols with their log-probabilities in nats, the most likely first."""
    best = logits_BV.double().log_softmax(-1).topk(min(count, logits_BV.shape[-1]))
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [list(zip(ids, nats, strict=True)) for ids, nats in rows]
