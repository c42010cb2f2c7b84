"""BatchedRunner: several sequences in one pass equal each sequence alone, on a CPU and, if there is one, on a GPU."""

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
    "post-norm": {"norm_placement": "post"},
    "n-grams": {"ngrams": 4, "ngram_rows": 101},
}
SLOW_KINDS = ("one table", "sinusoidal", "post-norm")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]
TOLERANCE = {"cpu": 1e-5, "cuda": 1e-4}


def full_batch(ids: list[int]) -> TokenBatch:
    return TokenBatch([0] * len(ids), range(len(ids)), ids)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "kind", [pytest.param(one, marks=pytest.mark.slow) if one in SLOW_KINDS else one for one in KINDS]
)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_batch_equals_single_sequences(kind, device, data):
    """Random sequences are read, rolled back and read again, through all layers in one call or in two calls."""
    network = random_network(9, **KINDS[kind])
    network_on_cpu = random_network(9, **KINDS[kind])
    runner = BatchedRunner(network.to(device), 5, C)
    cached: list[list[int]] = [[] for _ in range(5)]
    for _ in range(data.draw(st.integers(1, 6))):
        slots = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5, unique=True))
        limit = data.draw(st.sampled_from([1, 1, 3, C]))
        batch_slots, positions, ids = [], [], []
        for slot in slots:
            keep = data.draw(st.integers(0, min(len(cached[slot]), C - 1)))
            new = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=min(limit, C - keep)))
            cached[slot] = cached[slot][:keep] + new
            batch_slots += [slot] * len(new)
            positions += range(keep, keep + len(new))
            ids += new
        batch = TokenBatch(batch_slots, positions, ids)
        if data.draw(st.booleans()):
            below = runner.run(batch, 0, 1).x_ND.copy()
            got = runner.run(batch, 1, None, below)
        else:
            got = runner.run(batch)
        row = 0
        for slot in slots:
            count = batch_slots.count(slot)
            expected = EagerRunner(network_on_cpu, 1, C).run(full_batch(cached[slot]))
            for name in ("x_ND", "normed_ND", "logits_NV"):
                np.testing.assert_allclose(
                    getattr(got, name)[row : row + count], getattr(expected, name)[-count:],
                    rtol=0, atol=TOLERANCE[device] * np.abs(getattr(expected, name)).max(),
                )  # fmt: skip
            row += count


def test_one_pass_for_each_number_of_new_characters(monkeypatch):
    runner, shapes = BatchedRunner(random_network(9), 4, C), []
    forward_layers = runner.forward_layers
    monkeypatch.setattr(
        runner,
        "forward_layers",
        lambda given, *more: (shapes.append(tuple(given.shape)), forward_layers(given, *more))[1],
    )
    runner.run(TokenBatch([3, 1, 1, 0, 2, 2], [0, 0, 1, 0, 0, 1], [1] * 6))
    assert shapes == [(3, 2, 1), (3, 2, 2)]


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_text_of_a_batch_equals_single_sequences(device):
    network, prompts = (
        random_network(64, block="paper", positions="tables"),
        [[5, 6, 7], [], [9], [8] * 40, [5, 6, 7], [3]],
    )
    together = GenerationLoop(BatchedRunner(network.to(device), 6, C), prompts, 60, SamplingParams(temperature=0), 7)
    together.run()
    network_on_cpu = random_network(64, block="paper", positions="tables")
    for number, prompt in enumerate(prompts):
        alone = GenerationLoop(EagerRunner(network_on_cpu, 1, C), [prompt], 60, SamplingParams(temperature=0), 7)
        alone.run()
        assert together.sequences[number].ids == alone.sequences[0].ids


class FakeGraph:
    """Replaces a CUDA graph of one pass."""

    def __init__(self, runner, given, longest):
        self.runner, self.given, self.longest = runner, given, longest
        self.output = torch.zeros(*given.shape[1:], 2 * runner.width + runner.alphabet_size)

    def replay(self):
        slots = self.given[2, :, 0]
        self.output.copy_(self.runner.forward_layers(self.given, slots, self.longest, 0, self.runner.layers, None))


@pytest.mark.parametrize("capture_works", [True, False])
def test_replay_pads_the_batch_and_falls_back_without_a_graph(capture_works, monkeypatch):
    """As on a GPU: 3 of 5 sequences use a graph of 4, whose last row is padding. First one character each, then two."""
    runner, captured = BatchedRunner(random_network(9), 5, C), []

    def capture(given, longest):
        captured.append((*given.shape[1:], longest))
        if not capture_works:
            raise torch.OutOfMemoryError("no room")
        graph = FakeGraph(runner, given, longest)
        return graph, given, graph.output

    monkeypatch.setattr(runner, "capture", capture)
    for begin, end in ((0, 1), (1, 2), (2, 4), (3, 5)):  # the last rolls back one character
        ids = [[row + position for position in range(begin, end)] for row in range(3)]
        padded = np.array([ids, [[*range(begin, end)]] * 3, [[slot] * (end - begin) for slot in (4, 1, 2)]])
        with torch.inference_mode():
            found = runner.replay(padded)
        for row in range(3):
            expected = (
                EagerRunner(random_network(9), 1, C)
                .run(full_batch([row + position for position in range(end)]))
                .logits_NV
            )
            assert expected is not None
            np.testing.assert_allclose(found[row, :, -9:], expected[begin:], rtol=0, atol=1e-5)
    assert captured == [(4, 1, 1), (4, 1, 2), (4, 2, 4), (4, 2, 5)]


def test_logits_of_a_bfloat16_network_are_float32():
    half = random_network(27).to(torch.bfloat16)
    half.output.float()
    ids = list(range(C))
    rounded, exact = (BatchedRunner(one, 1, C).run(full_batch(ids)).logits_NV for one in (half, random_network(27)))
    assert rounded is not None and exact is not None
    assert np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()
    assert (torch.from_numpy(rounded).bfloat16().float().numpy() != rounded).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_bfloat16_and_number_of_graphs():
    network = random_network(27, context=200).to("cuda")
    runner = open_runner(network, 20, None, torch.bfloat16)
    assert isinstance(runner, BatchedRunner) and network.output.weight.dtype == torch.float32
    other = open_runner(network, 3, None, torch.bfloat16, runner)
    assert isinstance(other, BatchedRunner) and other.network is runner.network
    exact = BatchedRunner(network, 20, 200)
    ids = np.random.default_rng(0).integers(0, 27, (20, 150))
    for position in range(150):
        slots = range(1 + position % 20)
        batch = TokenBatch(list(slots), [position] * len(slots), ids[: len(slots), position].tolist())
        half, full = runner.run(batch).logits_NV, exact.run(batch).logits_NV
        assert half is not None and full is not None
        if position < 20:  # later, some sequences have gaps in their cache
            assert np.abs(half - full).max() < 0.1 * np.abs(full).max()
    assert len(runner.graphs) == 6 * 3  # 1, 2, 4, 8, 16 and 20 sequences; 64, 128 and 200 characters


def test_invalid_rows():
    runner = BatchedRunner(random_network(9), 1, C)
    for slot, position, symbol in ((0, C, 1), (1, 0, 1), (0, 0, 9), (0, 0, -1), (0, -1, 0)):
        batch = TokenBatch([slot], [position], [symbol])
        with pytest.raises(UserError):
            runner.run(batch)


def test_choice_of_the_runner_on_a_cpu():
    network = random_network(9, block="paper")
    assert isinstance(open_runner(network, 1), EagerRunner)
    assert isinstance(open_runner(network, 2), BatchedRunner)
    with pytest.raises(UserError, match="this network has another architecture"):
        open_runner(network, 1, None, torch.bfloat16)
