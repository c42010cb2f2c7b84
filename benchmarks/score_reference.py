"""Bits per character of the plain script's network, by the same rule as for every other one: stride C/2."""

import numpy as np

from benchmarks.reference import ALPHABET, Transformer
from charladder.evaluation import Score, evaluate


def score_reference(model: Transformer, ids_N: np.ndarray, part: tuple[int, int]) -> Score:
    """Scores ids_N[part]; the context may begin before the part."""
    context = model.settings.context
    return evaluate(lambda tokens, keep: model(tokens)[:, -keep:], ids_N, part, context, context // 2, ALPHABET)
