"""What single drafters propose, compared with a count or a formula."""

import numpy as np
import torch
import torch.nn.functional as F

from charladder.generation import SamplingParams
from charladder.generation.speculative import EarlyExitDrafter, IndependentHeadsDrafter
from charladder.generation.speculative.ngram import MostFrequentNext
from charladder.inference.factory import open_runner
from generation.drafting import random_network


def test_ngram_predicts_the_most_frequent_next_character():
    for frequent, rare in ((2, 3), (3, 2)):
        text = np.array([0, 1, frequent, 0, 1, rare, 0, 1, frequent], np.uint8)
        counted = MostFrequentNext(text, 2)
        assert counted.predict([0, 1]) == frequent
        assert counted.predict([1, rare]) == 0
        assert counted.predict([frequent, rare]) == -1


def test_early_exit_normalizes_only_if_normed():
    runner = open_runner(random_network(5))
    random = torch.Generator().manual_seed(1)
    x_ND, weight_VD, bias_V = (torch.randn(*shape, generator=random) for shape in ((3, 32), (5, 32), (5,)))
    for normed in (True, False):
        read = F.layer_norm(x_ND, (32,)) if normed else x_ND
        drafter = EarlyExitDrafter(runner, 1, weight_VD, bias_V, SamplingParams(), normed=normed)
        expected = (read @ weight_VD.T + bias_V).numpy()
        np.testing.assert_allclose(drafter.logits(x_ND.numpy()), expected, rtol=1e-5, atol=1e-5)


def test_target_heads_draft_length():
    heads = {k: (torch.zeros(5, 8), None) for k in (2, 3, 4, 6)}
    most = {length: IndependentHeadsDrafter(heads, SamplingParams(), length).max_length for length in (1, 2, 3, 8)}
    assert most == {1: 1, 2: 2, 3: 3, 8: 3}  # without a head for 5, the head for 6 is not used
