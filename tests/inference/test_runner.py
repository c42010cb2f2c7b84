"""A pass in C gives what the network's own modules give, and a cache that was rolled back is as good as a fresh one."""

import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.inference.factory import open_runner
from charladder.inference.packed_cpu import LARGE_PAGE, PackedRunner, PackedWeights, aligned_zeros, can_pack
from charladder.inference.runner import EagerRunner, TokenBatch
from charladder.kernels import build, native
from charladder.model.transformer import Transformer
from generation.drafting import random_network
from helpers import compile_with_flags

pytestmark = pytest.mark.skipif(native.library(torch.float32) is None, reason="there is no C compiler")
SHAPES = [
    {},
    {"width": 36, "attention_heads": 2, "feed_forward": 40, "context": 21},
    {"width": 64, "attention_heads": 1, "feed_forward": 33, "context": 33, "layers": 1},
]


def whole(ids: list[int], stream: int = 0) -> TokenBatch:
    return TokenBatch([stream] * len(ids), range(len(ids)), ids)


WAYS = {
    "as it is": (),
    "without matrix units": ("-mno-amx-tile",),
    "without products of pairs": ("-mno-amx-tile", "-mno-avx512bf16"),
    "vectors of 8": ("-mno-amx-tile", "-mno-avx512f"),
    "vectors of 4": ("-mno-amx-tile", "-mno-avx"),
    "threads share all matrices": ("-DNEAR=0",),
}


SELDOM = ("vectors of 4", "threads share all matrices")  # each takes a while to compile


@pytest.fixture(params=[pytest.param(way, marks=pytest.mark.slow) if way in SELDOM else way for way in WAYS])
def units(request, monkeypatch):
    """This processor's way, and the ways of those that can do less, and of large networks."""
    more = WAYS[request.param] if platform.machine() == "x86_64" or request.param.startswith("threads") else ()
    compile_with_flags(monkeypatch, more, build.NETWORK)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alphabet", [3, 27, 256])
def test_packed_is_plain(units, shape, alphabet):
    network = random_network(alphabet, **shape)
    C = network.settings.context
    ids = np.random.default_rng(0).integers(0, alphabet, C).tolist()
    plain, packed = (
        EagerRunner(network, 1, C).run(whole(ids)),
        PackedRunner(PackedWeights(network), 1, C).run(whole(ids)),
    )
    for name in ("x_ND", "final_ND", "logits_NV"):
        np.testing.assert_allclose(getattr(packed, name), getattr(plain, name), rtol=1e-4, atol=1e-5)


def test_attention_scores_that_are_all_far_below_zero():
    """Keys that are the queries with the opposite sign: each character's score of itself is -400 sqrt(head size)."""
    network = random_network(27)
    with torch.no_grad():
        for block in network.blocks:
            attention = block.attention
            attention.key.weight.copy_(attention.query.weight)
            attention.query_norm.weight.fill_(20)
            attention.key_norm.weight.fill_(-20)
    plain, packed = (
        reader.run(whole([5])) for reader in (EagerRunner(network, 1, 16), PackedRunner(PackedWeights(network), 1, 16))
    )
    np.testing.assert_allclose(packed.logits_NV, plain.logits_NV, rtol=1e-4, atol=1e-5)


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def rounding_reader(network: Transformer, products: bool) -> EagerRunner:
    """The network's own modules with weights, keys and values rounded to bfloat16, and what matrices multiply too."""
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            with torch.no_grad():
                module.weight.copy_(rounded(module.weight))
            if products:
                module.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))
    reader = EagerRunner(network, 1, network.settings.context)
    for cache in reader.caches:
        extend = cache.extend
        cache.extend = lambda layer, key, value, extend=extend: extend(layer, rounded(key), rounded(value))
    return reader


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_rounds_weights_keys_and_values(units, shape):
    found = native.library(torch.bfloat16)
    assert found is not None
    ids = list(range(16))
    half = PackedRunner(PackedWeights(random_network(27, **shape), torch.bfloat16), 1, 16).run(whole(ids)).logits_NV
    expected = rounding_reader(random_network(27, **shape), bool(found.rounds_inputs())).run(whole(ids)).logits_NV
    plain = EagerRunner(random_network(27, **shape), 1, 16).run(whole(ids)).logits_NV
    assert half is not None and expected is not None and plain is not None
    # A last bit of float32 may decide which way a number is rounded.
    assert np.abs(half - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(half - expected).mean() < 0.25 * np.abs(plain - expected).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_is_the_same_alone_and_in_company_whatever_the_threads(units, dtype, threads):
    network, before = random_network(256, layers=3), torch.get_num_threads()
    weights = PackedWeights(network, dtype)
    ids = np.random.default_rng(0).integers(0, 256, (5, 16)).tolist()
    alone = PackedRunner(weights, 5, 16)
    expected = np.stack(
        [[alone.run(TokenBatch([s], [t], [ids[s][t]])).logits_NV[0].copy() for t in range(16)] for s in range(5)]
    )
    torch.set_num_threads(threads)
    try:
        rows = TokenBatch(
            [s for s in range(5) for _ in range(16)], [*range(16)] * 5, [one for text in ids for one in text]
        )
        together = PackedRunner(weights, 5, 16).run(rows).logits_NV.reshape(5, 16, 256)
    finally:
        torch.set_num_threads(before)
    assert (together == expected).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_cache_rolled_back_is_as_a_fresh_one(data):
    """Any streams read, forgotten and read again, some rows at a time, through all layers at once or in two parts."""
    network = random_network(9)
    for reader, tolerance in ((PackedRunner(PackedWeights(network), 3, 16), 0), (EagerRunner(network, 3, 16), 2e-5)):
        held: list[list[int]] = [[], [], []]
        for _ in range(data.draw(st.integers(1, 6))):
            streams = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
            numbers, places, ids = [], [], []
            for stream in streams:
                keep = data.draw(st.integers(0, min(len(held[stream]), 15)))
                new = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=16 - keep))
                held[stream] = held[stream][:keep] + new
                numbers += [stream] * len(new)
                places += range(keep, keep + len(new))
                ids += new
            rows = TokenBatch(numbers, places, ids)
            if data.draw(st.booleans()):
                below = reader.run(rows, 0, 1).x_ND.copy()
                got = reader.run(rows, 1, None, below).logits_NV
            else:
                got = reader.run(rows).logits_NV
            assert got is not None
            row = 0
            for stream in streams:
                count = numbers.count(stream)
                fresh = type(reader)(reader.weights if isinstance(reader, PackedRunner) else network, 1, 16)  # type: ignore[arg-type]
                expected = fresh.run(whole(held[stream])).logits_NV
                assert expected is not None
                np.testing.assert_allclose(got[row : row + count], expected[-count:], rtol=0, atol=tolerance)
                row += count


def test_what_does_not_fit_is_refused():
    reader = PackedRunner(PackedWeights(random_network(9)), 1, 16)
    for rows in (
        TokenBatch([0], [16], [1]),
        TokenBatch([1], [0], [1]),
        TokenBatch([0], [0], [9]),
        TokenBatch([0], [0], [-1]),
    ):
        with pytest.raises(UserError):
            reader.run(rows)
    assert not can_pack(random_network(9, block="paper"))
    assert not can_pack(random_network(9, ngrams=4))
    assert not can_pack(random_network(9).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (3 << 20,), (1025, 1024)])
def test_what_is_large_begins_with_a_large_page(shape, dtype):
    found = aligned_zeros(shape, dtype)
    assert (tuple(found.shape), found.dtype, found.is_contiguous()) == (shape, dtype, True)
    assert not found.any()
    found.fill_(1)
    assert found.sum(dtype=torch.float64) == found.numel()
    if found.numel() * dtype.itemsize > LARGE_PAGE:
        assert found.data_ptr() % LARGE_PAGE == 0


def test_sinusoidal_positions_are_not_read_in_c_and_go_on_past_the_context():
    network = random_network(27, positions="sinusoidal")
    assert not can_pack(network)
    assert isinstance(open_runner(network), EagerRunner)
    assert open_runner(network, context=40).context == 40
    with pytest.raises(UserError, match=r"bfloat16 on a CPU .* not of the kind"):
        open_runner(network, dtype=torch.bfloat16)
    for learned in ("table", "tables"):
        with pytest.raises(UserError, match="context is 40; the position tables end at 16"):
            open_runner(random_network(27, positions=learned), context=40)
