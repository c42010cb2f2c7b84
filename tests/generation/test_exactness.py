"""Drafted text is distributed as the network says, whatever drafts, and greedy text is the same text."""

import itertools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from charladder.generation import GenerationLoop, SamplingParams, distribution
from charladder.generation import loop as loop_module
from charladder.generation.sampler import SOURCES as DRAW
from charladder.generation.sampler import Drafts, NativeSampler, ReferenceSampler
from charladder.inference.packed_cpu import PackedRunner, PackedWeights
from charladder.inference.runner import EagerRunner
from charladder.kernels import native
from generation.drafting import DRAFTERS, make_drafter, random_network

SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.7),
    SamplingParams(top_k=2),
    SamplingParams(top_p=0.7),
    SamplingParams(min_p=0.4),
    SamplingParams(temperature=0.8, top_k=3, top_p=0.95, min_p=0.1),
    SamplingParams(coupled=True),
    SamplingParams(temperature=0.8, top_k=3, coupled=True),
]
PROMPT = [0, 2, 1]
needs_c = pytest.mark.skipif(native.library(torch.float32) is None, reason="there is no C compiler")


def expected_of(network, sampling: SamplingParams, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every text of `length` characters after the prompt, by enumeration."""
    alphabet = network.output.out_features
    texts = list(itertools.product(range(alphabet), repeat=length))
    with torch.no_grad():
        logits_NTV = network(torch.tensor([[*PROMPT, *text[:-1]] for text in texts]), logits_to_keep=length).logits_BTV
    found = {}
    for text, logits_TV in zip(texts, logits_NTV, strict=True):
        p_TV = distribution(logits_TV, sampling)
        found[text] = math.prod(float(p_TV[place, one]) for place, one in enumerate(text))
    return found


def assert_distributed(texts: list[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> None:
    """By chi-square, rare texts taken together; impossible ones never come."""
    counts = dict.fromkeys(expected, 0)
    for text in texts:
        counts[text] += 1
    assert not any(counts[text] for text, p in expected.items() if p == 0)
    cells, rare = [], [0.0, 0.0]
    for text, p in expected.items():
        if p * len(texts) >= 10:
            cells.append((counts[text], p * len(texts)))
        else:
            rare = [rare[0] + counts[text], rare[1] + p * len(texts)]
    if rare[1] >= 10:
        cells.append((rare[0], rare[1]))
    chi_square, freedom = sum((seen - mean) ** 2 / mean for seen, mean in cells), len(cells) - 1
    # Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal. One in 100,000 is beyond.
    normal = ((chi_square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))
    assert normal < 4.3, (chi_square, freedom)


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> None:
    """What chooses by speed sees the same speeds every time: whether a check is passed is not left to the hour."""
    ticks, now = random.Random(5), [0.0]

    def passing() -> float:
        now[0] += ticks.expovariate(1000)
        return now[0]

    monkeypatch.setattr(loop_module, "time", SimpleNamespace(perf_counter=passing))


def drawn_texts(
    network, name: str, sampling: SamplingParams, samples: int, together: int = 1000
) -> list[tuple[int, ...]]:
    reader, texts, passes, characters = PackedRunner(PackedWeights(network), together, 16), [], 0, 0
    for seed in range(samples // together):
        drafter = make_drafter(name, network, reader, sampling)
        # Longer than what is looked at, so that there is something to draft to the end.
        writer = GenerationLoop(reader, [PROMPT] * together, 5, sampling, seed, drafter)
        writer.run()
        texts += [tuple(stream.ids[1:4]) for stream in writer.sequences]
        passes, characters = passes + writer.passes, characters + writer.pass_characters
    assert name in ("none", "auto") or characters > 1.02 * passes  # drafts do stand
    return texts


def after_one(expected: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    """Of texts without their first character: that one comes from the prompt, and no draft is for it."""
    found: dict[tuple[int, ...], float] = {}
    for text, p in expected.items():
        found[text[1:]] = found.get(text[1:], 0.0) + p
    return found


@needs_c
@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("samples", [4_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_three_drafted_characters_are_distributed_as_enumeration_says(name, sampling, samples):
    network = random_network(4, 0.5)
    expected = after_one(expected_of(network, sampling, 4))
    assert sum(expected.values()) == pytest.approx(1)
    assert_distributed(drawn_texts(network, name, sampling, samples), expected)


@needs_c
def test_the_check_of_distributions_can_fail():
    network = random_network(4, 0.5)
    texts = drawn_texts(network, "chained targets", SamplingParams(temperature=1.1), 20_000)
    with pytest.raises(AssertionError):
        assert_distributed(texts, after_one(expected_of(network, SamplingParams(), 4)))


@pytest.mark.parametrize(
    "name",
    [
        "chained targets",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("plain targets", "early-exit", "ngram")),
    ],
)
def test_plain_reader_and_choice_are_exact_too(name, monkeypatch):
    """Without any C."""
    monkeypatch.setattr(native, "library", lambda *_: None)
    network, sampling, texts = random_network(3, 0.5), SamplingParams(temperature=0.9), []
    reader = EagerRunner(network, 20, 16)
    for seed in range(40):
        writer = GenerationLoop(reader, [PROMPT] * 20, 5, sampling, seed, make_drafter(name, network, reader, sampling))
        writer.run()
        texts += [tuple(stream.ids[1:3]) for stream in writer.sequences]
    assert_distributed(texts, after_one(expected_of(network, sampling, 3)))


@needs_c
@pytest.mark.parametrize("name", DRAFTERS)
def test_greedy_drafted_text_is_the_same_text(name):
    """20 prompts, 10,000 characters, most of them past the context. Not one may differ: rows of the packed reader do
    not depend on each other."""
    network, greedy = random_network(256), SamplingParams(temperature=0)
    prompts = np.random.default_rng(0).integers(0, 256, (20, 9)).tolist()
    texts = []
    for drafting in ("none", name):
        reader = PackedRunner(PackedWeights(network), len(prompts), 16)
        drafter = make_drafter(drafting, network, reader, greedy)
        writer = GenerationLoop(reader, prompts, 500, greedy, 0, drafter)
        writer.run()
        texts.append([stream.ids for stream in writer.sequences])
    assert texts[0] == texts[1]
    assert sum(map(len, texts[0])) == 10_000


@needs_c
@pytest.mark.parametrize("name", DRAFTERS)
def test_in_a_race_a_seed_writes_the_same_text_whatever_drafts(name):
    network, race, texts = random_network(64), SamplingParams(temperature=0.7, coupled=True), []
    for drafting in ("none", name):
        reader = PackedRunner(PackedWeights(network), 4, 16)
        writer = GenerationLoop(
            reader, [[5, 6, 7], [], [9], [8] * 40], 200, race, 7, make_drafter(drafting, network, reader, race)
        )
        writer.run()
        texts.append([stream.ids for stream in writer.sequences])
    assert texts[0] == texts[1]


@needs_c
@pytest.mark.parametrize("name", DRAFTERS[:-1])
def test_a_stream_writes_the_same_beside_others_as_alone(name):
    network, sampling = random_network(64), SamplingParams(temperature=0.7)
    prompts, texts = [[5, 6, 7], [], [9], [8] * 40], []
    for some in (prompts, *([prompt] for prompt in prompts)):
        reader = PackedRunner(PackedWeights(network), len(some), 16)
        writer = GenerationLoop(reader, some, 60, sampling, 7, make_drafter(name, network, reader, sampling))
        writer.run()
        texts += [stream.ids for stream in writer.sequences]
    assert texts[:4] == texts[4:]


@pytest.mark.slow
@needs_c
def test_greedy_text_of_the_packed_reader_is_that_of_the_plain_one():
    """A first difference only where the two best logits are within 1e-4, and these are counted."""
    network, greedy = random_network(256), SamplingParams(temperature=0)
    prompts = np.random.default_rng(0).integers(0, 256, (20, 9)).tolist()
    texts, close = [], 0
    for reader in (EagerRunner(network, 20, 16), PackedRunner(PackedWeights(network), 20, 16)):
        writer = GenerationLoop(reader, prompts, 500, greedy)
        writer.run()
        texts.append([stream.ids for stream in writer.sequences])
    for number, (one, other) in enumerate(zip(*texts, strict=True)):
        if one == other:
            continue
        at = next(place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        logits_V = plain_logits(network, prompts[number] + one[:at])
        best = np.sort(logits_V)[-2:]
        assert best[1] - best[0] < 1e-4
        close += 1
    assert close <= 2


def plain_logits(network, read: list[int]) -> np.ndarray:
    """Of the character after these, by full recomputation, past the context by the rule."""
    start = -(-max(0, len(read) - 16) // 8) * 8
    with torch.no_grad():
        return network(torch.tensor([read[start:]])).logits_BTV[0, -1].numpy()


@needs_c
@pytest.mark.parametrize("sampling", [*SAMPLINGS, SamplingParams(temperature=0)], ids=str)
@pytest.mark.parametrize("certain", [False, True])
def test_both_ways_of_choosing_choose_the_same(sampling, certain):
    library = native.library(torch.float32, DRAW)
    assert library is not None
    plain, compiled = ReferenceSampler(sampling), NativeSampler(sampling, library)
    random = np.random.default_rng(5)
    for _ in range(40):
        counts = random.integers(0, 4, 6).tolist()
        M, V = sum(counts), 11
        logits_NV = random.normal(0, 2, (M + 6, V)).astype(np.float32)
        uniform = random.random(2 * M + 6).tolist()
        ids, p_NV, nats = plain.sample(logits_NV, uniform[: M + 6])
        same, close, near = compiled.sample(logits_NV, uniform[: M + 6])
        assert ids == same
        np.testing.assert_allclose(p_NV, close, atol=2e-7)
        np.testing.assert_allclose(nats, near, atol=2e-6)
        q_MV = None if certain else random.dirichlet(np.ones(V), M).reshape(M, V)
        drafts = Drafts(counts, random.integers(0, V, M).tolist(), q_MV)
        one, other = plain.verify(logits_NV, drafts, uniform), compiled.verify(logits_NV, drafts, uniform)
        assert (one.accepted_S, one.next_S) == (other.accepted_S, other.next_S)
        for said, again in zip(one.nats_S, other.nats_S, strict=True):
            np.testing.assert_allclose(said, again, atol=2e-6)
