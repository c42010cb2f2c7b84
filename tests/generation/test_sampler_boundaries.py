"""Boundaries of top-p and min-p, and very negative logits, in NumPy and in C (sampling.c)."""

import math

import numpy as np
import pytest
import torch

from charladder.generation import SamplingParams
from charladder.generation.sampler import SOURCES, NativeSampler, ReferenceSampler, Sampler, inverse_cdf_sample
from charladder.kernels import native

EQUAL = [0.0, 0.0, 0.0, 0.0]  # each symbol has probability 1/4, exactly, in any floating-point type
SMALL = [-720.0, -700.0, -701.0, -703.0]


def native_sampler(sampling: SamplingParams) -> Sampler:
    library = native.library(torch.float32, SOURCES)
    if library is None:
        pytest.skip("needs a C compiler")
    return NativeSampler(sampling, library)


def distribution(make_sampler, logits: list[float], sampling: SamplingParams) -> list[float]:
    _, p_NV, _ = make_sampler(sampling).sample(np.array([logits], np.float32), [0.5])
    return p_NV[0].tolist()


with_both_samplers = pytest.mark.parametrize("make_sampler", [ReferenceSampler, native_sampler])


@with_both_samplers
@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (SamplingParams(top_p=0.25), 1),
        (SamplingParams(top_p=0.5), 2),
        (SamplingParams(top_p=0.75), 3),
        (SamplingParams(top_p=math.nextafter(0.5, 1)), 3),
        (SamplingParams(top_p=math.nextafter(0.5, 0)), 2),
        (SamplingParams(top_k=2, top_p=0.5), 1),  # top-k leaves two symbols of probability 1/2
    ],
)
def test_top_p_keeps_the_fewest_symbols_that_reach_p(make_sampler, sampling, kept):
    assert distribution(make_sampler, EQUAL, sampling) == [1 / kept] * kept + [0] * (4 - kept)


@with_both_samplers
@pytest.mark.parametrize("min_p", [1.0, math.nextafter(1.0, 0)])
def test_min_p_keeps_symbols_exactly_at_the_limit(make_sampler, min_p):
    assert distribution(make_sampler, [1.0, -0.5, 1.0, 0.5], SamplingParams(min_p=min_p)) == [0.5, 0, 0.5, 0]


@with_both_samplers
def test_very_negative_logits(make_sampler):
    exact = np.exp(np.array(SMALL) + 700)
    expected = exact / exact.sum()
    np.testing.assert_allclose(distribution(make_sampler, SMALL, SamplingParams()), expected, rtol=1e-6)
    logits_NV = np.array([SMALL], np.float32)
    for sampling in (SamplingParams(temperature=0), SamplingParams(top_k=1), SamplingParams(top_k=1, coupled=True)):
        ids, _, nats = make_sampler(sampling).sample(logits_NV, [0.5])
        assert ids == [1]
        assert nats[0] == pytest.approx(math.log(expected[1]), rel=1e-6)


def test_rounding_never_selects_a_symbol_of_probability_zero():
    """0.9 times the smallest double rounds to the smallest double, which the cumulative sum does not exceed."""
    assert inverse_cdf_sample(np.array([0.0, math.ulp(0.0), 0.0]), 0.9) == 1
