"""Speculative decoding keeps the distribution of the network, and with greedy sampling the same text."""

import itertools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from charladder.generation import GenerationLoop, SamplingParams, distribution
from charladder.generation import loop as loop_module
from charladder.generation.sampler import SOURCES as SAMPLING
from charladder.generation.sampler import NativeSampler, ReferenceSampler
from charladder.generation.speculative.drafter import Drafts
from charladder.generation.speculative.verification import verify_drafts
from charladder.inference.pack_weights import PackedWeights
from charladder.inference.packed_runner import PackedRunner
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
needs_c = pytest.mark.skipif(native.library(torch.float32) is None, reason="needs a C compiler")


def exact_distribution(network, sampling: SamplingParams, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every text of `length` characters after the prompt, by enumeration."""
    alphabet = network.output.out_features
    texts = list(itertools.product(range(alphabet), repeat=length))
    with torch.no_grad():
        logits_NTV = network(torch.tensor([[*PROMPT, *text[:-1]] for text in texts]), logits_to_keep=length).logits_BTV
    probabilities = {}
    for text, logits_TV in zip(texts, logits_NTV, strict=True):
        p_TV = distribution(logits_TV, sampling)
        probabilities[text] = math.prod(float(p_TV[position, symbol]) for position, symbol in enumerate(text))
    return probabilities


def assert_distributed(texts: list[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> None:
    """A chi-square test with rare texts in one cell; texts of probability 0 must not occur."""
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
    # Wilson and Hilferty: the cube root of chi-square over its degrees of freedom is nearly normal. The limit is
    # exceeded once in 100,000 tests.
    normal = ((chi_square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))
    assert normal < 4.3, (chi_square, freedom)


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> None:
    """A simulated clock, so that the automatic drafter makes the same choices in every test run."""
    ticks, now = random.Random(5), [0.0]

    def perf_counter() -> float:
        now[0] += ticks.expovariate(1000)
        return now[0]

    monkeypatch.setattr(loop_module, "time", SimpleNamespace(perf_counter=perf_counter))


def sample_texts(
    network, name: str, sampling: SamplingParams, samples: int, batch_size: int = 1000
) -> list[tuple[int, ...]]:
    runner, texts, passes, characters = PackedRunner(PackedWeights(network), batch_size, 16), [], 0, 0
    for seed in range(samples // batch_size):
        drafter = make_drafter(name, network, runner, sampling)
        # One character more than is compared, so that the last of these can be drafted too.
        loop = GenerationLoop(runner, [PROMPT] * batch_size, 5, sampling, seed, drafter)
        loop.run()
        texts += [tuple(sequence.ids[1:4]) for sequence in loop.sequences]
        passes, characters = passes + loop.passes, characters + loop.pass_characters
    assert name in ("none", "auto") or characters > 1.02 * passes  # some drafts are accepted
    return texts


def without_first(expected: dict[tuple[int, ...], float]) -> dict[tuple[int, ...], float]:
    """The distribution of the texts without their first character, which is never drafted."""
    marginal: dict[tuple[int, ...], float] = {}
    for text, p in expected.items():
        marginal[text[1:]] = marginal.get(text[1:], 0.0) + p
    return marginal


# 4,000 texts for every drafter with every sampling, half of them in the quick tests. The chain of training takes most
# time; it has two of these there. 100,000 texts, which show a difference 5 times smaller, for a third of the pairs:
# each drafter has three samplings, and each sampling two or three drafters.
QUICK_OF_TRAINED_CHAIN = (SAMPLINGS[0], SAMPLINGS[-1])
PAIRS = list(itertools.product(DRAFTERS, SAMPLINGS))
CASES = [
    pytest.param(name, sampling, 4_000, marks=[pytest.mark.slow] * is_slow)
    for name, sampling in PAIRS
    for is_slow in [
        sampling not in QUICK_OF_TRAINED_CHAIN
        if name == "trained chain"
        else (DRAFTERS.index(name) + SAMPLINGS.index(sampling)) % 2 > 0
    ]
] + [
    pytest.param(name, sampling, 100_000, marks=pytest.mark.slow)
    for name, sampling in PAIRS
    if (DRAFTERS.index(name) + SAMPLINGS.index(sampling)) % 3 == 0
]


@needs_c
@pytest.mark.parametrize(("name", "sampling", "samples"), CASES, ids=str)
def test_drafted_text_has_the_exact_distribution(name, sampling, samples):
    network = random_network(4, 0.5)
    expected = without_first(exact_distribution(network, sampling, 4))
    assert sum(expected.values()) == pytest.approx(1)
    assert_distributed(sample_texts(network, name, sampling, samples), expected)


@needs_c
def test_distribution_check_can_fail():
    network = random_network(4, 0.5)
    texts = sample_texts(network, "chained targets", SamplingParams(temperature=1.1), 20_000)
    with pytest.raises(AssertionError):
        assert_distributed(texts, without_first(exact_distribution(network, SamplingParams(), 4)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chained targets", "independent targets", "early-exit", "ngram"])
def test_distribution_is_exact_without_c(name, monkeypatch):
    monkeypatch.setattr(native, "library", lambda *_: None)
    network, sampling, texts = random_network(3, 0.5), SamplingParams(temperature=0.9), []
    runner = EagerRunner(network, 20, 16)
    for seed in range(40):
        loop = GenerationLoop(runner, [PROMPT] * 20, 5, sampling, seed, make_drafter(name, network, runner, sampling))
        loop.run()
        texts += [tuple(sequence.ids[1:3]) for sequence in loop.sequences]
    assert_distributed(texts, without_first(exact_distribution(network, sampling, 3)))


@needs_c
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "trained chain")) for name in DRAFTERS]
)
def test_greedy_text_is_the_same_with_every_drafter(name):
    """10,000 characters after 20 prompts, most of them past the context. Rows of PackedRunner do not depend on each
    other, so all of them must be equal."""
    network, greedy = random_network(256), SamplingParams(temperature=0)
    prompts = np.random.default_rng(0).integers(0, 256, (20, 9)).tolist()
    texts = []
    for drafting in ("none", name):
        runner = PackedRunner(PackedWeights(network), len(prompts), 16)
        drafter = make_drafter(drafting, network, runner, greedy)
        loop = GenerationLoop(runner, prompts, 500, greedy, 0, drafter)
        loop.run()
        texts.append([sequence.ids for sequence in loop.sequences])
    assert texts[0] == texts[1]
    assert sum(map(len, texts[0])) == 10_000


@needs_c
@pytest.mark.parametrize("name", DRAFTERS)
def test_coupled_text_of_a_seed_is_the_same_with_every_drafter(name):
    network, coupled, texts = random_network(64), SamplingParams(temperature=0.7, coupled=True), []
    for drafting in ("none", name):
        runner = PackedRunner(PackedWeights(network), 4, 16)
        loop = GenerationLoop(
            runner, [[5, 6, 7], [], [9], [8] * 40], 200, coupled, 7, make_drafter(drafting, network, runner, coupled)
        )
        loop.run()
        texts.append([sequence.ids for sequence in loop.sequences])
    assert texts[0] == texts[1]


@needs_c
@pytest.mark.parametrize("name", DRAFTERS[:-1])
def test_text_does_not_depend_on_other_sequences(name):
    network, sampling = random_network(64), SamplingParams(temperature=0.7)
    prompts, texts = [[5, 6, 7], [], [9], [8] * 40], []
    for batch in (prompts, *([prompt] for prompt in prompts)):
        runner = PackedRunner(PackedWeights(network), len(batch), 16)
        loop = GenerationLoop(runner, batch, 60, sampling, 7, make_drafter(name, network, runner, sampling))
        loop.run()
        texts += [sequence.ids for sequence in loop.sequences]
    assert texts[:4] == texts[4:]


@pytest.mark.slow
@needs_c
def test_greedy_text_of_packed_and_eager_runners():
    """Texts may first differ only where the two highest logits are within 1e-4, and at most two texts may differ."""
    network, greedy = random_network(256), SamplingParams(temperature=0)
    prompts = np.random.default_rng(0).integers(0, 256, (20, 9)).tolist()
    texts, close = [], 0
    for runner in (EagerRunner(network, 20, 16), PackedRunner(PackedWeights(network), 20, 16)):
        loop = GenerationLoop(runner, prompts, 500, greedy)
        loop.run()
        texts.append([sequence.ids for sequence in loop.sequences])
    for number, (one, other) in enumerate(zip(*texts, strict=True)):
        if one == other:
            continue
        first = next(position for position, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        logits_V = recomputed_logits(network, prompts[number] + one[:first])
        best = np.sort(logits_V)[-2:]
        assert best[1] - best[0] < 1e-4
        close += 1
    assert close <= 2


def recomputed_logits(network, ids: list[int]) -> np.ndarray:
    """The logits of the next character without a cache; past the context, the last half context is kept."""
    start = -(-max(0, len(ids) - 16) // 8) * 8
    with torch.no_grad():
        return network(torch.tensor([ids[start:]])).logits_BTV[0, -1].numpy()


@needs_c
@pytest.mark.parametrize("sampling", [*SAMPLINGS, SamplingParams(temperature=0)], ids=str)
@pytest.mark.parametrize("deterministic", [False, True])
def test_reference_and_native_sampler_agree(sampling, deterministic):
    library = native.library(torch.float32, SAMPLING)
    assert library is not None
    reference, compiled = ReferenceSampler(sampling), NativeSampler(sampling, library)
    random = np.random.default_rng(5)
    for _ in range(40):
        counts = random.integers(0, 4, 6).tolist()
        M, V = sum(counts), 11
        logits_NV = random.normal(0, 2, (M + 6, V)).astype(np.float32)
        uniform = random.random(2 * M + 6).tolist()
        ids, p_NV, nats = reference.sample(logits_NV, uniform[: M + 6])
        same_ids, close_p_NV, close_nats = compiled.sample(logits_NV, uniform[: M + 6])
        assert ids == same_ids
        np.testing.assert_allclose(p_NV, close_p_NV, atol=2e-7)
        np.testing.assert_allclose(nats, close_nats, atol=2e-6)
        q_MV = None if deterministic else random.dirichlet(np.ones(V), M).reshape(M, V)
        drafts = Drafts(counts, random.integers(0, V, M).tolist(), q_MV)
        one, other = (verify_drafts(sampler, logits_NV, drafts, uniform) for sampler in (reference, compiled))
        assert (one.accepted_S, one.next_S) == (other.accepted_S, other.next_S)
        for nats, close_nats in zip(one.nats_S, other.nats_S, strict=True):
            np.testing.assert_allclose(nats, close_nats, atol=2e-6)
