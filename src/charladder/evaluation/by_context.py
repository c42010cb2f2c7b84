"""Bits per character by context length (Al-Rfou et al. 2018, Table 2), and by position in the window.

Shapes: C characters of context, M characters scored together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from charladder.errors import UserError
from charladder.evaluation.sliding_window import Score, ScoredCharacters


@dataclass(frozen=True)
class ContextScore:
    """The score of some characters. context: the context length, or the number of characters that they were predicted
    from. accuracy: the share of characters whose most probable prediction was right."""

    context: int
    stride: int
    bits_per_character: float
    accuracy: float
    characters: int
    seconds: float = 0.0


EvaluateFunction = Callable[[int, int, Callable[[ScoredCharacters], None]], Score]
"""Scores a part of a text with a context and a stride, and passes its characters to a callback."""


def context_lengths(context: int, smallest: int = 32) -> list[int]:
    """The powers of two from `smallest` below `context`, and `context` itself."""
    lengths = []
    while smallest < context:
        lengths.append(smallest)
        smallest *= 2
    return [*lengths, context]


def evaluate_by_context(
    evaluate: EvaluateFunction, contexts: Sequence[int], stride: int | None = None
) -> list[ContextScore]:
    """The whole part scored with each context; stride: half of each unless given. Raises UserError for a stride above
    the smallest context."""
    if stride is not None and stride > min(contexts):
        raise UserError(field="stride", value=stride, rule=f"it must be at most the smallest context, {min(contexts)}")
    scores = []
    for context in contexts:
        right = 0

        def count(scored: ScoredCharacters) -> None:
            nonlocal right
            right += int((scored.ranks_M == 0).sum())

        stride_here = max(1, context // 2) if stride is None else stride
        score = evaluate(context, stride_here, count)
        bits, accuracy = score.bits_per_character, right / score.characters  # the first character is never predicted
        scores.append(ContextScore(context, stride_here, bits, accuracy, score.characters, score.seconds))
    return scores


def evaluate_by_position(evaluate: EvaluateFunction, context: int, bands: int = 32) -> list[ContextScore]:
    """Bits per character by the number of characters before it in its window, for windows that do not overlap.

    The numbers from 1 to `context` are grouped into bands, whose ends grow geometrically.
    """
    nats_C, right_C, count_C = np.zeros(context + 1), np.zeros(context + 1), np.zeros(context + 1, np.int64)

    def add(scored: ScoredCharacters) -> None:
        np.add.at(nats_C, scored.context_M, scored.nats_M)
        np.add.at(right_C, scored.context_M, scored.ranks_M == 0)
        np.add.at(count_C, scored.context_M, 1)

    evaluate(context, context, add)
    edges = sorted({max(1, round(context ** (n / bands))) for n in range(bands + 1)})
    scores = []
    for begin, end in zip([0, *edges[:-1]], edges, strict=True):
        among = slice(begin + 1, end + 1)
        count = int(count_C[among].sum())
        if count:
            bits = float(nats_C[among].sum()) / math.log(2) / count
            scores.append(ContextScore(end, context, bits, float(right_C[among].sum()) / count, count))
    return scores
