"""Generating several characters in one call gives bitwise the same as one character at a time."""

import ctypes

import numpy as np
import pytest
import torch

from charladder.errors import UserError
from charladder.generation import GenerationLoop, SamplingParams, multi_step
from charladder.generation.sampler import NativeSampler, make_sampler
from charladder.generation.speculative import NoDrafter
from charladder.inference.factory import open_runner
from charladder.inference.packed_runner import PackedRunner
from charladder.inference.runner import TokenBatch
from charladder.kernels import build, native
from generation.drafting import random_network
from helpers import compile_with_flags

pytestmark = pytest.mark.skipif(native.library(torch.float32) is None, reason="needs a C compiler")
COMPILER_FLAGS = {
    "this processor": (),
    "few sequences at a time": ("-DTHREAD_CACHE_BYTES=4096",),
    "threads share all matrices": ("-DSHARED_CACHE_BYTES=0",),
}


@pytest.fixture(
    params=["this processor", *(pytest.param(name, marks=pytest.mark.slow) for name in [*COMPILER_FLAGS][1:])]
)
def variant(request, monkeypatch):
    compile_with_flags(monkeypatch, COMPILER_FLAGS[request.param], build.NETWORK, build.SAMPLING)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def calls(monkeypatch):
    """How many characters each call of `multi_step` generates."""
    seen, before = [], multi_step.multi_step
    monkeypatch.setattr("charladder.generation.loop.multi_step", lambda *given: seen.append(before(*given)) or seen[-1])
    return seen


def generate(network, dtype, sampling, seconds, stops=(), seconds_per_pass=0.0, count=40, length=70) -> list[tuple]:
    """Texts of several lengths after several prompts, some of them empty, past the context of 16. seconds_per_pass:
    overrides the measured time."""
    prompts = [[n % 4, 3, n % network.output.out_features][: n % 4] for n in range(count)]
    loop = GenerationLoop(open_runner(network, count, None, dtype), prompts, length, sampling, 3, None, stops)
    for sequence in loop.sequences:
        sequence.length = length - 3 * (sequence.slot % 5)
        sequence.num_candidates = 3 * (sequence.slot % 4 == 1)  # some record candidates
    while loop.active:
        loop.seconds_per_pass = seconds_per_pass or loop.seconds_per_pass
        loop.step(seconds)
    assert loop.accepted_per_pass == 1
    states = [
        (s.cached_ids, np.asarray(s.normed_D).tobytes()) if s.finish_reason == "length" else None
        for s in loop.sequences
    ]
    assert all(
        len(s.candidates) == (len(s.ids) - 1 if s.num_candidates else 0)
        for s in loop.sequences
        if s.finish_reason == "length"
    )
    return [
        (s.ids, s.nats, s.candidates, s.drafted, s.finish_reason, state)
        for s, state in zip(loop.sequences, states, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(coupled=True), SamplingParams(top_p=0.9, temperature=0.7), SamplingParams(temperature=0)],
    ids=["coupled", "rejection", "greedy"],
)  # fmt: skip
def test_multi_step_equals_single_steps(variant, threads, calls, dtype, sampling):
    network = random_network(256)
    expected = generate(network, dtype, sampling, 0)
    assert not any(calls)
    assert generate(network, dtype, sampling, 100.0) == expected
    assert max(calls) > 40 * 4
    calls.clear()
    assert generate(network, dtype, sampling, 1.0, seconds_per_pass=1 / (16 * 8)) == expected
    assert 12 * 6 < max(calls) <= 16 * 6


def test_stop_string_within_a_call(calls):
    network, stops = random_network(5), [[1, 2], [4, 4, 4]]
    expected = generate(network, torch.float32, SamplingParams(coupled=True), 0, stops=stops)
    got = generate(network, torch.float32, SamplingParams(coupled=True), 100.0, stops=stops)
    assert got == expected
    assert "stop" in {one[4] for one in got}
    assert any(calls)


def test_active_drafter_disables_multi_step(calls):
    network = random_network(5)

    class ActiveDrafter(NoDrafter):
        def draft(self, sequences, limits):
            drafts = super().draft(sequences, limits)
            return type(drafts)(drafts.counts_S, drafts.ids_M, drafts.q_MV)

    GenerationLoop(open_runner(network), [[1]], 9, SamplingParams(coupled=True), 0, ActiveDrafter()).run()
    assert not calls


def test_seconds_bound_a_call(calls):
    loop = GenerationLoop(open_runner(random_network(5), 2), [[1], [2]], 100, SamplingParams(coupled=True))
    loop.step(100.0)  # the time of a pass is not known yet
    assert not calls
    loop.seconds_per_pass = 1.0
    loop.step(7.5)
    assert calls == [6]
    loop.seconds_per_pass = 1.0
    loop.step(3.5)  # not enough for two characters each
    assert calls == [6]


def test_sequences_that_waited_longest_are_selected():
    loop = GenerationLoop(
        open_runner(random_network(5), 20), [[n % 5] for n in range(20)], 10_000, SamplingParams(coupled=True)
    )
    loop.step()
    for step in range(1, 11):
        loop.seconds_per_pass = 1.0
        before = [len(sequence.ids) for sequence in loop.sequences]
        loop.step(6.0 * 16)
        assert sum(len(sequence.ids) > count for sequence, count in zip(loop.sequences, before, strict=True)) == 6
        ages = [loop.steps - sequence.last_step for sequence in loop.sequences if sequence.last_step]
        assert max(ages) <= 3 and (step < 4 or len(ages) == 20)


def test_large_network_generates_all_sequences_together(calls):
    runner = open_runner(random_network(5), 20)
    assert isinstance(runner, PackedRunner)
    runner.fits_cache = False
    loop = GenerationLoop(runner, [[n % 5] for n in range(20)], 100, SamplingParams(coupled=True))
    loop.step()
    loop.seconds_per_pass = 1.0
    loop.step(6.0 * 16)
    assert calls == [20 * 4]


def test_nan_logits_raise():
    runner = open_runner(random_network(5), 2)
    assert isinstance(runner, PackedRunner)
    loop = GenerationLoop(runner, [[1], [2]], 100, SamplingParams(coupled=True))
    loop.step()
    runner.weights.output.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        loop.run()


def test_positions_past_the_context_raise():
    network = random_network(5)
    runner = open_runner(network)
    assert isinstance(runner, PackedRunner)
    sampler = make_sampler(SamplingParams(coupled=True))
    assert isinstance(sampler, NativeSampler)
    with pytest.raises(UserError, match="17 characters are more than the 16"):
        runner.run_steps(TokenBatch([0], [14], [1]), [3], ctypes.c_void_p(), sampler.sampling, np.zeros((1, 3)))
