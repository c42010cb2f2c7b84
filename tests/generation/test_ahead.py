"""Several characters in one call are those that come one at a time, bit for bit."""

import ctypes

import numpy as np
import pytest
import torch

from charladder.errors import BadInput
from charladder.generation import Sampling, Writer, ahead, open_reader
from charladder.generation.drafters import NoDrafter
from charladder.generation.verification import CompiledChooser
from charladder.inference.packed import PackedRunner
from charladder.inference.runner import TokenBatch
from charladder.kernels import build, native
from generation.drafting import stirred
from helpers import compiled_with

pytestmark = pytest.mark.skipif(native.library(torch.float32) is None, reason="there is no C compiler")
WAYS = {"as it is": (), "few streams at a time": ("-DHELD=4096",), "threads share all matrices": ("-DNEAR=0",)}


@pytest.fixture(params=["as it is", *(pytest.param(way, marks=pytest.mark.slow) for way in [*WAYS][1:])])
def ways(request, monkeypatch):
    compiled_with(monkeypatch, WAYS[request.param], build.NETWORK, build.SAMPLING)


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def calls(monkeypatch):
    """How many characters each call wrote; 0 where it left that to others."""
    seen, before = [], ahead.write_ahead
    monkeypatch.setattr(
        "charladder.generation.writer.write_ahead", lambda *given: seen.append(before(*given)) or seen[-1]
    )
    return seen


def written(network, weights, sampling, pause, stops=(), pace=0.0, count=40, length=70) -> list[tuple]:
    """Texts of several lengths after several prompts, some of them empty, past the context of 16. pace: as if a
    character took so many seconds."""
    prompts = [[n % 4, 3, n % network.output.out_features][: n % 4] for n in range(count)]
    writer = Writer(open_reader(network, count, None, weights), prompts, length, sampling, 3, None, stops)
    for stream in writer.streams:
        stream.length = length - 3 * (stream.number % 5)
        stream.top = 3 * (stream.number % 4 == 1)  # some are looked at
    while writer.active:
        writer.pace = pace or writer.pace
        writer.step(pause)
    assert writer.accepted_per_pass == 1
    left = [(s.held, np.asarray(s.final_D).tobytes()) if s.finish == "length" else None for s in writer.streams]
    assert all(len(s.likeliest) == (len(s.ids) - 1 if s.top else 0) for s in writer.streams if s.finish == "length")
    return [(s.ids, s.nats, s.likeliest, s.drafted, s.finish, now) for s, now in zip(writer.streams, left, strict=True)]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "sampling", [Sampling(race=True), Sampling(top_p=0.9, temperature=0.7), Sampling(temperature=0)],
    ids=["race", "rejection", "greedy"],
)  # fmt: skip
def test_it_is_what_comes_one_at_a_time(ways, threads, calls, weights, sampling):
    network = stirred(256)
    expected = written(network, weights, sampling, 0)
    assert not any(calls)
    assert written(network, weights, sampling, 100.0) == expected
    assert max(calls) > 40 * 4
    calls.clear()
    assert written(network, weights, sampling, 1.0, pace=1 / (16 * 8)) == expected
    assert 12 * 6 < max(calls) <= 16 * 6


def test_a_stop_string_ends_a_text_in_the_middle_of_a_call(calls):
    network, stops = stirred(5), [[1, 2], [4, 4, 4]]
    expected = written(network, torch.float32, Sampling(race=True), 0, stops=stops)
    got = written(network, torch.float32, Sampling(race=True), 100.0, stops=stops)
    assert got == expected
    assert "stop" in {one[4] for one in got}
    assert any(calls)


def test_whoever_drafts_is_written_by_steps(calls):
    network = stirred(5)

    class Awake(NoDrafter):
        def draft(self, streams, most):
            drafts = super().draft(streams, most)
            return type(drafts)(drafts.counts_S, drafts.ids_M, drafts.q_MV)

    Writer(open_reader(network), [[1]], 9, Sampling(race=True), 0, Awake()).finish()
    assert not calls


def test_the_pause_bounds_a_call(calls):
    writer = Writer(open_reader(stirred(5), 2), [[1], [2]], 100, Sampling(race=True))
    writer.step(100.0)  # how long one takes is not known yet
    assert not calls
    writer.pace = 1.0
    writer.step(7.5)
    assert calls == [6]
    writer.pace = 1.0
    writer.step(3.5)  # too little for two of each
    assert calls == [6]


def test_those_who_have_waited_longest_are_next():
    writer = Writer(open_reader(stirred(5), 20), [[n % 5] for n in range(20)], 10_000, Sampling(race=True))
    writer.step()
    for turn in range(1, 11):
        writer.pace = 1.0
        before = [len(stream.ids) for stream in writer.streams]
        writer.step(6.0 * 16)
        assert sum(len(stream.ids) > count for stream, count in zip(writer.streams, before, strict=True)) == 6
        ages = [writer.steps - stream.last for stream in writer.streams if stream.last]
        assert max(ages) <= 3 and (turn < 4 or len(ages) == 20)


def test_of_a_large_network_all_are_written_together(calls):
    reader = open_reader(stirred(5), 20)
    assert isinstance(reader, PackedRunner)
    reader.fits_cache = False
    writer = Writer(reader, [[n % 5] for n in range(20)], 100, Sampling(race=True))
    writer.step()
    writer.pace = 1.0
    writer.step(6.0 * 16)
    assert calls == [20 * 4]


def test_a_broken_network_says_so():
    reader = open_reader(stirred(5), 2)
    assert isinstance(reader, PackedRunner)
    writer = Writer(reader, [[1], [2]], 100, Sampling(race=True))
    writer.step()
    reader.weights.output.fill_(float("nan"))
    with pytest.raises(BadInput, match="NaN"):
        writer.finish()


def test_places_past_the_context_are_refused():
    network = stirred(5)
    reader = open_reader(network)
    assert isinstance(reader, PackedRunner)
    writer = Writer(reader, [[1]], 100, Sampling(race=True))
    chooser = writer.streams[0].manner.chooser
    assert isinstance(chooser, CompiledChooser)
    with pytest.raises(BadInput, match="17 characters are more than the 16"):
        reader.run_steps(TokenBatch([0], [14], [1]), [3], ctypes.c_void_p(), chooser.sampling, np.zeros((1, 3)))
