"""`top_candidates`: the most likely symbols and their log-probabilities."""

import math

import pytest
import torch

from charladder.generation.distribution import top_candidates


def test_more_candidates_than_symbols():
    (row,) = top_candidates(torch.tensor([[0.0, 2.0, 1.0]]), 9)
    assert [symbol for symbol, _ in row] == [1, 2, 0]
    assert sum(math.exp(nats) for _, nats in row) == pytest.approx(1)
