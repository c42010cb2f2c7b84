"""A short text in a network with a context of millions: the same bits as in one with a short context, at its cost."""

import numpy as np
import pytest
import torch

from charladder.inference.batched import BatchedRunner
from charladder.inference.pack_weights import PackedWeights
from charladder.inference.packed_runner import PackedRunner
from charladder.inference.runner import EagerRunner, TokenBatch
from charladder.kernels import native
from charladder.model import Transformer, position_tables
from charladder.model.position_tables import table_length
from charladder.model.rotary import rotary_angles
from charladder.model.sinusoidal import sinusoidal_signal
from generation.drafting import random_network
from helpers import small

LONG = 1 << 20
SINUSOIDAL = {"block": "paper", "positions": "sinusoidal"}


def test_lengths_of_tables():
    assert [table_length(end, 100) for end in (1, 99, 100, 101)] == [100, 100, 100, 101]
    assert [table_length(end, LONG) for end in (1, 1 << 14, (1 << 14) + 1, LONG, LONG + 5)] == [
        1 << 14, 1 << 14, 1 << 15, LONG, LONG + 5
    ]  # fmt: skip
    assert table_length(70_000, 100_000) == 100_000


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 63, 1000, 16_383, 16_384, 16_385])
def test_rows_of_a_short_table_are_those_of_a_long_one(length):
    for make in (lambda n: rotary_angles(small(width=36), n), lambda n: (sinusoidal_signal(n, 36),)):
        for short, long in zip(make(length), make(40_000), strict=True):
            assert short.equal(long[:length])


@pytest.mark.parametrize("changes", [{}, SINUSOIDAL])
@torch.inference_mode()
def test_network_computes_the_table_that_a_text_needs(changes, monkeypatch):
    monkeypatch.setattr(position_tables, "_MIN_LENGTH", 8)
    short, long = random_network(9, context=64, **changes), random_network(9, context=LONG, **changes)
    ids = torch.arange(60)[None] % 9
    for length, rows in ((5, 8), (9, 16), (60, 64), (12, 64)):
        assert long(ids[:, :length]).logits_BTV.equal(short(ids[:, :length]).logits_BTV)
        assert len(long.signal if changes else long.rotary[0]) == rows


def open_one(kind: str, network: Transformer, context: int):
    if kind == "packed":
        if native.library(torch.float32) is None:
            pytest.skip("needs a C compiler")
        return PackedRunner(PackedWeights(network), 1, context)
    return (EagerRunner if kind == "eager" else BatchedRunner)(network, 1, context)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("packed", {}), ("eager", {}), ("batched", {}), ("eager", SINUSOIDAL), ("batched", SINUSOIDAL)],
)
def test_runners_compute_the_tables_that_a_text_needs(kind, changes, monkeypatch):
    monkeypatch.setattr(position_tables, "_MIN_LENGTH", 8)
    short, long = random_network(9, context=64, **changes), random_network(9, context=LONG, **changes)
    runners = open_one(kind, short, 64), open_one(kind, long, LONG)
    for begin, end in ((0, 5), (5, 6), (6, 20), (20, 60), (3, 9)):
        batch = TokenBatch([0] * (end - begin), range(begin, end), [n % 9 for n in range(begin, end)])
        expected, found = (runner.run(batch) for runner in runners)
        for name in ("x_ND", "normed_ND", "logits_NV"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    if kind != "eager":
        assert len(runners[1].signal if changes else runners[1].angles[0]) == 64
