"""The sampling distribution, and the generation loop without drafts."""

import itertools

import numpy as np
import pytest
import torch

from charladder.errors import UserError
from charladder.generation import GenerationLoop, SamplingParams, distribution, generate
from charladder.generation.sequence import make_random
from charladder.generation.speculative import NoDrafter
from charladder.generation.speculative.drafter import Drafts
from charladder.generation.speculative.verification import verify_drafts
from charladder.inference.factory import open_runner
from charladder.model import Transformer
from helpers import small

P = torch.tensor([[0.5, 0.25, 0.15, 0.1]], dtype=torch.float64)


@pytest.fixture(scope="module", params=["modern", "paper"])
def network(request) -> Transformer:
    model = Transformer(small(block=request.param), 256).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (SamplingParams(), [0.5, 0.25, 0.15, 0.1]),
        (SamplingParams(temperature=0), [1, 0, 0, 0]),
        (SamplingParams(temperature=0.5), [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),
        (SamplingParams(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (SamplingParams(top_k=9), [0.5, 0.25, 0.15, 0.1]),
        (SamplingParams(top_p=0.49), [1, 0, 0, 0]),
        (SamplingParams(top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
        (SamplingParams(min_p=0.3), [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),
        (SamplingParams(top_k=3, min_p=0.4), [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_distribution(sampling, expected):
    got = distribution(P.log() + 3, sampling)[0]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_top_k_keeps_k_of_equal_symbols():
    assert int((distribution(torch.zeros(1, 8), SamplingParams(top_k=3)) > 0).sum()) == 3


def test_greedy_text_equals_recomputation_without_cache(network):
    """Within the context and past it."""
    prompt = [1, 2, 3]
    text = list(generate(network, prompt, 40, SamplingParams(temperature=0)))
    context, ids = 16, list(prompt)
    for character in text:
        over = max(0, len(ids) - context)
        start = -(-over // 8) * 8
        with torch.no_grad():
            logits = network(torch.tensor([ids[start:]])).logits_BTV[0, -1]
        assert int(logits.argmax()) == character
        ids.append(character)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 24, 25, 100])
def test_prefill_at_once_equals_character_by_character(network, length):
    prompt = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    at_once, by_one = (GenerationLoop(open_runner(network), [[]], 0) for _ in range(2))
    (one,), (other,) = at_once.sequences, by_one.sequences
    (logits,) = at_once.prefill([one], [prompt])
    for character in prompt:
        (expected,) = by_one.prefill([other], [[character]])
    assert one.cached_ids == other.cached_ids
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_seeds_and_the_empty_prompt(network):
    one, again, other = (list(generate(network, [], 20, seed=seed)) for seed in (4, 4, 5))
    assert one == again
    assert one != other
    assert len({next(generate(network, [], 1, seed=seed)) for seed in range(40)}) > 20


@pytest.mark.slow
def test_samples_follow_the_distribution():
    """Compares samples of two characters, with an alphabet of two, with the exact joint distribution."""
    model = Transformer(small(), 2).eval()
    with torch.no_grad():
        model.output.weight.normal_(0, 1, generator=torch.Generator().manual_seed(2))
    expected = {}
    for pair in itertools.product(range(2), repeat=2):
        probability, read = 1.0, [0]
        for character in pair:
            with torch.no_grad():
                p = model(torch.tensor([read])).logits_BTV[0, -1].double().softmax(-1)
            probability, read = probability * float(p[character]), [*read, character]
        expected[pair] = probability
    drawn = [tuple(generate(model, [0], 2, seed=seed)) for seed in range(1500)]
    chi_square = sum((drawn.count(pair) - 1500 * p) ** 2 / (1500 * p) for pair, p in expected.items())
    assert chi_square < 21.1  # exceeded once in 10,000 tests with three degrees of freedom


def test_invalid_arguments(network):
    with pytest.raises(UserError, match="length is -1"):
        next(generate(network, [1], -1))
    with pytest.raises(UserError, match="NaN"):
        distribution(torch.full((1, 4), float("nan")), SamplingParams())
    for fields in ({"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"min_p": 2.0}, {"temperature": float("nan")}):
        with pytest.raises(UserError):
            SamplingParams(**fields)
    assert list(generate(network, [1], 0)) == []


def test_order_of_random_numbers(monkeypatch):
    """Two random numbers for each draft, then one for the next character: the text of a seed depends on this order."""

    class TwoDrafts(NoDrafter):
        def draft(self, sequences, limits):
            return Drafts([2] * len(sequences), [65, 66] * len(sequences), None)

    network = Transformer(small(), 256, seed=0)
    loop = GenerationLoop(open_runner(network, 2), [[1, 2], [3]], 10, SamplingParams(), 5, TwoDrafts())
    used = []

    def verify(sampler, logits_NV, drafts, uniform):
        used.append(list(uniform))
        return verify_drafts(sampler, logits_NV, drafts, uniform)

    monkeypatch.setattr("charladder.generation.loop.verify_drafts", verify)
    loop.step()
    expected = []
    for prompt in ([1, 2], [3]):
        random = make_random(5, 0, prompt)
        random.random()  # for the first character
        expected += [random.random() for _ in range(5)]
    assert used == [expected]


@pytest.mark.parametrize(
    "sampling", [SamplingParams(coupled=True), SamplingParams(temperature=0.9)], ids=["coupled", "independent"]
)
def test_different_prompts_share_no_random_numbers(sampling):
    """The network predicts nearly the same after every prompt, so equal random numbers would give equal texts."""
    network = Transformer(small(), 256, seed=0)
    texts = []
    for prompt in ([1], [2], [3, 1], [], [1] * 40):
        loop = GenerationLoop(open_runner(network), [prompt], 200, sampling, 5)
        loop.run()
        texts.append(loop.sequences[0].ids)
    for one, other in itertools.combinations(texts, 2):
        assert np.mean(np.equal(one, other)) < 0.05


def test_text_depends_only_on_seed_prompt_and_sample_index():
    network = Transformer(small(), 256, seed=0)

    def texts(prompts: list[list[int]], seed: int = 5) -> list[tuple[int, ...]]:
        loop = GenerationLoop(open_runner(network, len(prompts)), prompts, 30, SamplingParams(coupled=True), seed)
        loop.run()
        return [tuple(sequence.ids) for sequence in loop.sequences]

    first, second, again, third = texts([[1], [2], [1], [1]])
    assert texts([[2], [1]]) == [second, first]
    assert texts([[1]]) == [first] != texts([[1]], seed=6)
    assert len({first, second, again, third}) == 4
