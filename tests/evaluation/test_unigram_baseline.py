"""The add-one unigram model against a count by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from charladder.evaluation.unigram_baseline import CHUNK_CHARACTERS, better_unigram, count_characters, unigram_bits

TEXT = b"abracadabra, abracadabra. Zebra!"
IDS = np.frombuffer(TEXT, np.uint8)


def by_hand(train: bytes, part: bytes, alphabet: int) -> float:
    counts = Counter(train)
    return -sum(math.log2((counts[one] + 1) / (len(train) + alphabet)) for one in part) / len(part)


@pytest.mark.parametrize("part", [(24, 32), (30, 32), (0, 5)])
def test_bits_equal_an_explicit_count(part):
    expected = by_hand(TEXT[:24], TEXT[slice(*part)], 256)
    assert unigram_bits(IDS, (0, 24), part, 256) == pytest.approx(expected, rel=1e-12)


def test_unseen_character_has_a_count_of_one():
    assert TEXT[26:27] == b"Z"
    assert unigram_bits(IDS, (0, 11), (26, 27), 256) == pytest.approx(math.log2(11 + 256))


def test_counts_of_long_texts_and_of_two_bytes_a_character():
    ids = np.random.default_rng(0).integers(0, 1000, CHUNK_CHARACTERS + 77).astype(np.uint16)
    assert np.array_equal(count_characters(ids, (3, len(ids)), 1000), np.bincount(ids[3:], minlength=1000))


def test_better_unigram_returns_only_fewer_bits():
    bits = unigram_bits(IDS, (0, 24), (24, 32), 256)
    assert better_unigram(bits + 1e-9, IDS, (0, 24), (24, 32), 256) == bits
    assert better_unigram(bits, IDS, (0, 24), (24, 32), 256) is None
    assert better_unigram(0.5, IDS, (0, 24), (24, 32), 256) is None


def test_training_text_is_not_counted_if_no_unigram_can_be_better():
    """A text of half a terabyte would take minutes."""

    class Guarded(np.ndarray):
        def __getitem__(self, key):
            assert not isinstance(key, slice) or key.start >= 24, "the training text was read"
            return super().__getitem__(key)

    guarded = IDS.view(Guarded)
    entropy = -sum(n / 8 * math.log2(n / 8) for n in Counter(TEXT[24:32]).values())
    assert better_unigram(entropy, guarded, (0, 24), (24, 32), 256) is None
    with pytest.raises(AssertionError, match="was read"):
        better_unigram(8.0, guarded, (0, 24), (24, 32), 256)
