"""The unigram baseline: add-one frequencies of the training text."""

import math

import numpy as np

from charladder.text import release_pages

CHUNK_CHARACTERS = 1 << 20  # counted at once


def count_characters(ids_N: np.ndarray, part: tuple[int, int], alphabet: int) -> np.ndarray:
    """How often each of `alphabet` characters occurs in ids_N[part], int64 (alphabet,)."""
    counts_V = np.zeros(alphabet, np.int64)
    for begin in range(part[0], part[1], CHUNK_CHARACTERS):
        counts_V += np.bincount(ids_N[begin : min(begin + CHUNK_CHARACTERS, part[1])], minlength=alphabet)
        release_pages(ids_N)
    return counts_V


def unigram_bits(ids_N: np.ndarray, train: tuple[int, int], part: tuple[int, int], alphabet: int) -> float:
    """Bits per character of ids_N[part] under the add-one unigram model of ids_N[train]."""
    seen_V, scored_V = count_characters(ids_N, train, alphabet), count_characters(ids_N, part, alphabet)
    nats_V = np.log(seen_V.sum() + alphabet) - np.log(seen_V + 1)
    return float(scored_V @ nats_V) / int(scored_V.sum()) / math.log(2)


def better_unigram(
    bits: float, ids_N: np.ndarray, train: tuple[int, int], part: tuple[int, int], alphabet: int
) -> float | None:
    """`unigram_bits` if it is below `bits`; otherwise None.

    No unigram model has fewer bits on a part than the entropy of the part itself, so the training text is counted only
    if `bits` is above that.
    """
    scored_V = count_characters(ids_N, part, alphabet)
    share_V = scored_V[scored_V > 0] / scored_V.sum()
    if bits <= -float(share_V @ np.log2(share_V)):
        return None
    found = unigram_bits(ids_N, train, part, alphabet)
    return found if found < bits else None
