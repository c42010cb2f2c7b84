"""The likeliest symbols and their log-probabilities."""

import math

import pytest
import torch

from charladder.generation.distribution import top_candidates


def test_of_fewer_symbols_than_are_asked_for_all_are_the_likeliest():
    (row,) = top_candidates(torch.tensor([[0.0, 2.0, 1.0]]), 9)
    assert [symbol for symbol, _ in row] == [1, 2, 0]
    assert sum(math.exp(nats) for _, nats in row) == pytest.approx(1)
