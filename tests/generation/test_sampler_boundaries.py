"""Exactly at the boundaries of top-p and min-p, and where all logits are far below 0: in numpy and in C (draw.c)."""

import math

import numpy as np
import pytest
import torch

from charladder.generation import SamplingParams
from charladder.generation.sampler import SOURCES, NativeSampler, ReferenceSampler, Sampler, inverse_cdf_sample
from charladder.kernels import native

EQUAL = [0.0, 0.0, 0.0, 0.0]  # each symbol has probability 1/4, exactly, in any floating-point type
SMALL = [-720.0, -700.0, -701.0, -703.0]


def compiled(sampling: SamplingParams) -> Sampler:
    library = native.library(torch.float32, SOURCES)
    if library is None:
        pytest.skip("there is no C compiler")
    return NativeSampler(sampling, library)


def distribution(make_chooser, logits: list[float], sampling: SamplingParams) -> list[float]:
    _, p_NV, _ = make_chooser(sampling).sample(np.array([logits], np.float32), [0.5])
    return p_NV[0].tolist()


both = pytest.mark.parametrize("make_chooser", [ReferenceSampler, compiled])


@both
@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (SamplingParams(top_p=0.25), 1),
        (SamplingParams(top_p=0.5), 2),
        (SamplingParams(top_p=0.75), 3),
        (SamplingParams(top_p=math.nextafter(0.5, 1)), 3),
        (SamplingParams(top_p=math.nextafter(0.5, 0)), 2),
        (SamplingParams(top_k=2, top_p=0.5), 1),  # of the two that top-k left, each has a half
    ],
)
def test_top_p_keeps_the_fewest_symbols_whose_probabilities_reach_it(make_chooser, sampling, kept):
    assert distribution(make_chooser, EQUAL, sampling) == [1 / kept] * kept + [0] * (4 - kept)


@both
@pytest.mark.parametrize("min_p", [1.0, math.nextafter(1.0, 0)])
def test_min_p_keeps_a_symbol_exactly_as_likely_as_it_asks(make_chooser, min_p):
    assert distribution(make_chooser, [1.0, -0.5, 1.0, 0.5], SamplingParams(min_p=min_p)) == [0.5, 0, 0.5, 0]


@both
def test_the_maximum_of_logits_that_are_all_far_below_zero(make_chooser):
    exact = np.exp(np.array(SMALL) + 700)
    expected = exact / exact.sum()
    np.testing.assert_allclose(distribution(make_chooser, SMALL, SamplingParams()), expected, rtol=1e-6)
    logits_NV = np.array([SMALL], np.float32)
    for sampling in (SamplingParams(temperature=0), SamplingParams(top_k=1), SamplingParams(top_k=1, coupled=True)):
        ids, _, nats = make_chooser(sampling).sample(logits_NV, [0.5])
        assert ids == [1]
        assert nats[0] == pytest.approx(math.log(expected[1]), rel=1e-6)


def test_what_is_drawn_is_possible_even_where_the_sum_rounds_up():
    """0.9 times the smallest double is the smallest double, which the sum of all does not pass."""
    assert inverse_cdf_sample(np.array([0.0, math.ulp(0.0), 0.0]), 0.9) == 1
