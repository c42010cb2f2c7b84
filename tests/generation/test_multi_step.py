"""Several characters in one call are those that come one at a time, bit for bit."""

import ctypes

import numpy as np
import pytest
import torch

from charladder.errors import UserError
from charladder.generation import GenerationLoop, SamplingParams, multi_step
from charladder.generation.sampler import NativeSampler, make_sampler
from charladder.generation.speculative import NoDrafter
from charladder.inference.factory import open_runner
from charladder.inference.packed_cpu import PackedRunner
from charladder.inference.runner import TokenBatch
from charladder.kernels import build, native
from generation.drafting import random_network
from helpers import compile_with_flags

pytestmark = pytest.mark.skipif(native.library(torch.float32) is None, reason="there is no C compiler")
WAYS = {"as it is": (), "few streams at a time": ("-DHELD=4096",), "threads share all matrices": ("-DNEAR=0",)}


@pytest.fixture(params=["as it is", *(pytest.param(way, marks=pytest.mark.slow) for way in [*WAYS][1:])])
def ways(request, monkeypatch):
    compile_with_flags(monkeypatch, WAYS[request.param], build.NETWORK, build.SAMPLING)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def calls(monkeypatch):
    """How many characters each call wrote; 0 where it left that to others."""
    seen, before = [], multi_step.multi_step
    monkeypatch.setattr("charladder.generation.loop.multi_step", lambda *given: seen.append(before(*given)) or seen[-1])
    return seen


def written(network, weights, sampling, pause, stops=(), pace=0.0, count=40, length=70) -> list[tuple]:
    """Texts of several lengths after several prompts, some of them empty, past the context of 16. pace: as if a
    character took so many seconds."""
    prompts = [[n % 4, 3, n % network.output.out_features][: n % 4] for n in range(count)]
    writer = GenerationLoop(open_runner(network, count, None, weights), prompts, length, sampling, 3, None, stops)
    for stream in writer.sequences:
        stream.length = length - 3 * (stream.slot % 5)
        stream.top = 3 * (stream.slot % 4 == 1)  # some are looked at
    while writer.active:
        writer.seconds_per_pass = pace or writer.seconds_per_pass
        writer.step(pause)
    assert writer.accepted_per_pass == 1
    left = [
        (s.cached_ids, np.asarray(s.final_D).tobytes()) if s.finish_reason == "length" else None
        for s in writer.sequences
    ]
    assert all(
        len(s.candidates) == (len(s.ids) - 1 if s.top else 0) for s in writer.sequences if s.finish_reason == "length"
    )
    return [
        (s.ids, s.nats, s.candidates, s.drafted, s.finish_reason, now)
        for s, now in zip(writer.sequences, left, strict=True)
    ]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(coupled=True), SamplingParams(top_p=0.9, temperature=0.7), SamplingParams(temperature=0)],
    ids=["race", "rejection", "greedy"],
)  # fmt: skip
def test_it_is_what_comes_one_at_a_time(ways, threads, calls, weights, sampling):
    network = random_network(256)
    expected = written(network, weights, sampling, 0)
    assert not any(calls)
    assert written(network, weights, sampling, 100.0) == expected
    assert max(calls) > 40 * 4
    calls.clear()
    assert written(network, weights, sampling, 1.0, pace=1 / (16 * 8)) == expected
    assert 12 * 6 < max(calls) <= 16 * 6


def test_a_stop_string_ends_a_text_in_the_middle_of_a_call(calls):
    network, stops = random_network(5), [[1, 2], [4, 4, 4]]
    expected = written(network, torch.float32, SamplingParams(coupled=True), 0, stops=stops)
    got = written(network, torch.float32, SamplingParams(coupled=True), 100.0, stops=stops)
    assert got == expected
    assert "stop" in {one[4] for one in got}
    assert any(calls)


def test_whoever_drafts_is_written_by_steps(calls):
    network = random_network(5)

    class Awake(NoDrafter):
        def draft(self, streams, most):
            drafts = super().draft(streams, most)
            return type(drafts)(drafts.counts_S, drafts.ids_M, drafts.q_MV)

    GenerationLoop(open_runner(network), [[1]], 9, SamplingParams(coupled=True), 0, Awake()).run()
    assert not calls


def test_the_pause_bounds_a_call(calls):
    writer = GenerationLoop(open_runner(random_network(5), 2), [[1], [2]], 100, SamplingParams(coupled=True))
    writer.step(100.0)  # how long one takes is not known yet
    assert not calls
    writer.seconds_per_pass = 1.0
    writer.step(7.5)
    assert calls == [6]
    writer.seconds_per_pass = 1.0
    writer.step(3.5)  # too little for two of each
    assert calls == [6]


def test_those_who_have_waited_longest_are_next():
    writer = GenerationLoop(
        open_runner(random_network(5), 20), [[n % 5] for n in range(20)], 10_000, SamplingParams(coupled=True)
    )
    writer.step()
    for turn in range(1, 11):
        writer.seconds_per_pass = 1.0
        before = [len(stream.ids) for stream in writer.sequences]
        writer.step(6.0 * 16)
        assert sum(len(stream.ids) > count for stream, count in zip(writer.sequences, before, strict=True)) == 6
        ages = [writer.steps - stream.last_step for stream in writer.sequences if stream.last_step]
        assert max(ages) <= 3 and (turn < 4 or len(ages) == 20)


def test_of_a_large_network_all_are_written_together(calls):
    reader = open_runner(random_network(5), 20)
    assert isinstance(reader, PackedRunner)
    reader.fits_cache = False
    writer = GenerationLoop(reader, [[n % 5] for n in range(20)], 100, SamplingParams(coupled=True))
    writer.step()
    writer.seconds_per_pass = 1.0
    writer.step(6.0 * 16)
    assert calls == [20 * 4]


def test_a_broken_network_says_so():
    reader = open_runner(random_network(5), 2)
    assert isinstance(reader, PackedRunner)
    writer = GenerationLoop(reader, [[1], [2]], 100, SamplingParams(coupled=True))
    writer.step()
    reader.weights.output.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        writer.run()


def test_places_past_the_context_are_refused():
    network = random_network(5)
    reader = open_runner(network)
    assert isinstance(reader, PackedRunner)
    chooser = make_sampler(SamplingParams(coupled=True))
    assert isinstance(chooser, NativeSampler)
    with pytest.raises(UserError, match="17 characters are more than the 16"):
        reader.run_steps(TokenBatch([0], [14], [1]), [3], ctypes.c_void_p(), chooser.sampling, np.zeros((1, 3)))
