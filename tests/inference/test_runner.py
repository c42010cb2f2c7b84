"""PackedRunner (C) equals EagerRunner, and a rolled back cache equals a new one."""

import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.inference.factory import open_runner
from charladder.inference.pack_weights import LARGE_PAGE, PackedWeights, aligned_zeros, can_pack
from charladder.inference.packed_runner import PackedRunner
from charladder.inference.runner import EagerRunner, TokenBatch
from charladder.kernels import build, native
from charladder.model.transformer import Transformer
from generation.drafting import random_network
from helpers import compile_with_flags

pytestmark = pytest.mark.skipif(native.library(torch.float32) is None, reason="needs a C compiler")
SHAPES = [
    {},
    {"width": 36, "attention_heads": 2, "feed_forward": 40, "context": 21},
    {"width": 64, "attention_heads": 1, "feed_forward": 33, "context": 33, "layers": 1},
]


def full_batch(ids: list[int]) -> TokenBatch:
    return TokenBatch([0] * len(ids), range(len(ids)), ids)


COMPILER_FLAGS = {
    "this processor": (),
    "without AMX": ("-mno-amx-tile",),
    "without bfloat16 pairs": ("-mno-amx-tile", "-mno-avx512bf16"),
    "vectors of 8": ("-mno-amx-tile", "-mno-avx512f"),
    "vectors of 4": ("-mno-amx-tile", "-mno-avx"),
    "threads share all matrices": ("-DSHARED_CACHE_BYTES=0",),
}


SLOW_VARIANTS = (
    "vectors of 4",
    "vectors of 8",
    "without AMX",
    "threads share all matrices",
)  # each takes a while to compile


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW_VARIANTS else name for name in COMPILER_FLAGS]
)
def variant(request, monkeypatch):
    """The code for this processor, for processors with fewer instructions, and for large networks."""
    flags = (
        COMPILER_FLAGS[request.param] if platform.machine() == "x86_64" or request.param.startswith("threads") else ()
    )
    compile_with_flags(monkeypatch, flags, build.NETWORK)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alphabet", [3, 27, 256])
def test_packed_equals_eager(variant, shape, alphabet):
    network = random_network(alphabet, **shape)
    C = network.settings.context
    ids = np.random.default_rng(0).integers(0, alphabet, C).tolist()
    eager, packed = (
        EagerRunner(network, 1, C).run(full_batch(ids)),
        PackedRunner(PackedWeights(network), 1, C).run(full_batch(ids)),
    )
    for name in ("x_ND", "normed_ND", "logits_NV"):
        np.testing.assert_allclose(getattr(packed, name), getattr(eager, name), rtol=1e-4, atol=1e-5)


def test_very_negative_attention_scores():
    """Keys are the negated queries: the score of each character with itself is -400 sqrt(head size)."""
    network = random_network(27)
    with torch.no_grad():
        for block in network.blocks:
            attention = block.attention
            attention.key.weight.copy_(attention.query.weight)
            attention.query_norm.weight.fill_(20)
            attention.key_norm.weight.fill_(-20)
    eager, packed = (
        runner.run(full_batch([5]))
        for runner in (EagerRunner(network, 1, 16), PackedRunner(PackedWeights(network), 1, 16))
    )
    np.testing.assert_allclose(packed.logits_NV, eager.logits_NV, rtol=1e-4, atol=1e-5)


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def rounding_runner(network: Transformer, inputs: bool) -> EagerRunner:
    """Rounds weights, keys and values to bfloat16; with `inputs`, the inputs of matrices too."""
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            with torch.no_grad():
                module.weight.copy_(rounded(module.weight))
            if inputs:
                module.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))
    runner = EagerRunner(network, 1, network.settings.context)
    for cache in runner.caches:
        extend = cache.extend
        cache.extend = lambda layer, key, value, extend=extend: extend(layer, rounded(key), rounded(value))
    return runner


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_rounds_weights_keys_and_values(variant, shape):
    library = native.library(torch.bfloat16)
    assert library is not None
    ids = list(range(16))
    half = (
        PackedRunner(PackedWeights(random_network(27, **shape), torch.bfloat16), 1, 16).run(full_batch(ids)).logits_NV
    )
    expected = (
        rounding_runner(random_network(27, **shape), bool(library.rounds_inputs())).run(full_batch(ids)).logits_NV
    )
    plain = EagerRunner(random_network(27, **shape), 1, 16).run(full_batch(ids)).logits_NV
    assert half is not None and expected is not None and plain is not None
    # The last bit of a float32 may decide whether a number is rounded up or down.
    assert np.abs(half - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(half - expected).mean() < 0.25 * np.abs(plain - expected).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_do_not_depend_on_the_batch_or_threads(variant, dtype, threads):
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
def test_rolled_back_cache_equals_a_new_one(data):
    """Random sequences are read, rolled back and read again, through all layers in one call or in two calls."""
    network = random_network(9)
    for runner, tolerance in ((PackedRunner(PackedWeights(network), 3, 16), 0), (EagerRunner(network, 3, 16), 2e-5)):
        cached: list[list[int]] = [[], [], []]
        for _ in range(data.draw(st.integers(1, 6))):
            slots = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3, unique=True))
            batch_slots, positions, ids = [], [], []
            for slot in slots:
                keep = data.draw(st.integers(0, min(len(cached[slot]), 15)))
                new = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=16 - keep))
                cached[slot] = cached[slot][:keep] + new
                batch_slots += [slot] * len(new)
                positions += range(keep, keep + len(new))
                ids += new
            rows = TokenBatch(batch_slots, positions, ids)
            if data.draw(st.booleans()):
                below = runner.run(rows, 0, 1).x_ND.copy()
                got = runner.run(rows, 1, None, below).logits_NV
            else:
                got = runner.run(rows).logits_NV
            assert got is not None
            row = 0
            for slot in slots:
                count = batch_slots.count(slot)
                new_runner = type(runner)(runner.weights if isinstance(runner, PackedRunner) else network, 1, 16)  # type: ignore[arg-type]
                expected = new_runner.run(full_batch(cached[slot])).logits_NV
                assert expected is not None
                np.testing.assert_allclose(got[row : row + count], expected[-count:], rtol=0, atol=tolerance)
                row += count


def test_invalid_rows_and_networks():
    runner = PackedRunner(PackedWeights(random_network(9)), 1, 16)
    for rows in (
        TokenBatch([0], [16], [1]),
        TokenBatch([1], [0], [1]),
        TokenBatch([0], [0], [9]),
        TokenBatch([0], [0], [-1]),
    ):
        with pytest.raises(UserError):
            runner.run(rows)
    assert not can_pack(random_network(9, block="paper"))
    assert not can_pack(random_network(9, ngrams=4))
    assert not can_pack(random_network(9).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5), (3 << 20,), (1025, 1024)])
def test_large_arrays_are_aligned_to_large_pages(shape, dtype):
    zeros = aligned_zeros(shape, dtype)
    assert (tuple(zeros.shape), zeros.dtype, zeros.is_contiguous()) == (shape, dtype, True)
    assert not zeros.any()
    zeros.fill_(1)
    assert zeros.sum(dtype=torch.float64) == zeros.numel()
    if zeros.numel() * dtype.itemsize > LARGE_PAGE:
        assert zeros.data_ptr() % LARGE_PAGE == 0


def test_sinusoidal_positions_run_eagerly_and_past_the_context():
    network = random_network(27, positions="sinusoidal")
    assert not can_pack(network)
    assert isinstance(open_runner(network), EagerRunner)
    assert open_runner(network, context=40).context == 40
    with pytest.raises(UserError, match=r"bfloat16 on a CPU .* another architecture"):
        open_runner(network, dtype=torch.bfloat16)
    for learned in ("table", "tables"):
        with pytest.raises(UserError, match="context is 40; the position tables end at 16"):
            open_runner(random_network(27, positions=learned), context=40)
