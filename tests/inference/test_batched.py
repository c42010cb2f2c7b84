"""Streams read together give what they give one by one, on a CPU and on a GPU where there is one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.generation import GenerationLoop, SamplingParams
from charladder.inference.batched import BatchedRunner
from charladder.inference.factory import open_runner
from charladder.inference.runner import EagerRunner, TokenBatch
from generation.drafting import random_network

C = 16
KINDS = {
    "modern": {},
    "tables": {"block": "paper", "positions": "tables"},
    "one table": {"block": "paper", "positions": "table"},
    "sinusoidal": {"block": "paper", "positions": "sinusoidal"},
    "after": {"norm_placement": "post"},
    "n-grams": {"ngrams": 4, "ngram_rows": 101},
}
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
]
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}


def whole(ids: list[int]) -> TokenBatch:
    return TokenBatch([0] * len(ids), range(len(ids)), ids)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_streams_together_are_as_each_alone(kind, device, data):
    """Any streams read, rolled back and read again, a few characters or one of each, through all layers or in two."""
    network = random_network(9, **KINDS[kind])
    plain = random_network(9, **KINDS[kind])
    reader = BatchedRunner(network.to(device), 5, C)
    held: list[list[int]] = [[] for _ in range(5)]
    for _ in range(data.draw(st.integers(1, 6))):
        streams = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
        most = data.draw(st.sampled_from([1, 1, 3, C]))
        numbers, places, ids = [], [], []
        for stream in streams:
            keep = data.draw(st.integers(0, min(len(held[stream]), C - 1)))
            new = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=min(most, C - keep)))
            held[stream] = held[stream][:keep] + new
            numbers += [stream] * len(new)
            places += range(keep, keep + len(new))
            ids += new
        rows = TokenBatch(numbers, places, ids)
        if data.draw(st.booleans()):
            below = reader.run(rows, 0, 1).x_ND.copy()
            got = reader.run(rows, 1, None, below)
        else:
            got = reader.run(rows)
        row = 0
        for stream in streams:
            count = numbers.count(stream)
            expected = EagerRunner(plain, 1, C).run(whole(held[stream]))
            for name in ("x_ND", "final_ND", "logits_NV"):
                np.testing.assert_allclose(
                    getattr(got, name)[row : row + count], getattr(expected, name)[-count:],
                    rtol=0, atol=TOLERANCE[device] * np.abs(getattr(expected, name)).max(),
                )  # fmt: skip
            row += count


def test_those_side_by_side_are_read_in_one_pass_for_each_length(monkeypatch):
    reader, shapes = BatchedRunner(random_network(9), 4, C), []
    climb = reader.forward_layers
    monkeypatch.setattr(
        reader, "forward_layers", lambda given, *more: (shapes.append(tuple(given.shape)), climb(given, *more))[1]
    )
    reader.run(TokenBatch([3, 1, 1, 0, 2, 2], [0, 0, 1, 0, 0, 1], [1] * 6))
    assert shapes == [(3, 2, 1), (3, 2, 2)]


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_text_of_many_is_that_of_each_alone(device):
    network, prompts = (
        random_network(64, block="paper", positions="tables"),
        [[5, 6, 7], [], [9], [8] * 40, [5, 6, 7], [3]],
    )
    together = GenerationLoop(BatchedRunner(network.to(device), 6, C), prompts, 60, SamplingParams(temperature=0), 7)
    together.run()
    plain = random_network(64, block="paper", positions="tables")
    for number, prompt in enumerate(prompts):
        alone = GenerationLoop(EagerRunner(plain, 1, C), [prompt], 60, SamplingParams(temperature=0), 7)
        alone.run()
        assert together.sequences[number].ids == alone.sequences[0].ids


class Replay:
    """Stands for a CUDA graph of one pass."""

    def __init__(self, reader, given, longest):
        self.reader, self.given, self.longest = reader, given, longest
        self.found = torch.zeros(*given.shape[1:], 2 * reader.width + reader.alphabet_size)

    def replay(self):
        held = self.given[2, :, 0]
        self.found.copy_(self.reader.forward_layers(self.given, held, self.longest, 0, self.reader.layers, None))


@pytest.mark.parametrize("works", [True, False])
def test_few_characters_are_replayed_with_streams_to_spare_or_read_as_they_are(works, monkeypatch):
    """As on a GPU: for 3 of 5 streams a graph of 4, whose last row is nobody's. One character of each, then two."""
    reader, made = BatchedRunner(random_network(9), 5, C), []

    def recorded(given, longest):
        made.append((*given.shape[1:], longest))
        if not works:
            raise torch.OutOfMemoryError("no room")
        replay = Replay(reader, given, longest)
        return replay, given, replay.found

    monkeypatch.setattr(reader, "capture", recorded)
    for begin, end in ((0, 1), (1, 2), (2, 4), (3, 5)):  # the last forgets one
        ids = [[stream + place for place in range(begin, end)] for stream in range(3)]
        asked = np.array([ids, [[*range(begin, end)]] * 3, [[stream] * (end - begin) for stream in (4, 1, 2)]])
        with torch.inference_mode():
            found = reader.replay(asked)
        for row in range(3):
            expected = EagerRunner(random_network(9), 1, C).run(whole([row + place for place in range(end)])).logits_NV
            assert expected is not None
            np.testing.assert_allclose(found[row, :, -9:], expected[begin:], rtol=0, atol=1e-5)
    assert made == [(4, 1, 1), (4, 1, 2), (4, 2, 4), (4, 2, 5)]


def test_logits_of_a_rounded_network_are_not_rounded():
    half = random_network(27).to(torch.bfloat16)
    half.output.float()
    ids = list(range(C))
    rounded, exact = (BatchedRunner(one, 1, C).run(whole(ids)).logits_NV for one in (half, random_network(27)))
    assert rounded is not None and exact is not None
    assert np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()
    assert (torch.from_numpy(rounded).bfloat16().float().numpy() != rounded).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_reads_in_bfloat16_and_records_few_graphs():
    network = random_network(27, context=200).to("cuda")
    reader = open_runner(network, 20, None, torch.bfloat16)
    assert isinstance(reader, BatchedRunner) and network.output.weight.dtype == torch.float32
    other = open_runner(network, 3, None, torch.bfloat16, reader)
    assert isinstance(other, BatchedRunner) and other.network is reader.network
    exact = BatchedRunner(network, 20, 200)
    ids = np.random.default_rng(0).integers(0, 27, (20, 150))
    for place in range(150):
        some = range(1 + place % 20)
        rows = TokenBatch(list(some), [place] * len(some), ids[: len(some), place].tolist())
        half, full = reader.run(rows).logits_NV, exact.run(rows).logits_NV
        assert half is not None and full is not None
        if place < 20:  # later ones lack what was not read
            assert np.abs(half - full).max() < 0.1 * np.abs(full).max()
    assert len(reader.graphs) == 6 * 3  # 1, 2, 4, 8, 16 and 20 streams; 64, 128 and 200 characters


def test_what_does_not_fit_is_refused():
    reader = BatchedRunner(random_network(9), 1, C)
    for stream, place, one in ((0, C, 1), (1, 0, 1), (0, 0, 9), (0, 0, -1), (0, -1, 0)):
        rows = TokenBatch([stream], [place], [one])
        with pytest.raises(UserError):
            reader.run(rows)


def test_one_stream_of_a_cpu_is_read_plainly_and_several_together():
    network = random_network(9, block="paper")
    assert isinstance(open_runner(network, 1), EagerRunner)
    assert isinstance(open_runner(network, 2), BatchedRunner)
    with pytest.raises(UserError, match="this network is not of the kind it reads"):
        open_runner(network, 1, None, torch.bfloat16)
