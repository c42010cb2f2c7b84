"""What single drafters propose, by a count or a formula by hand: only the speed of writing depends on it."""

import numpy as np
import torch
import torch.nn.functional as F

from charladder.generation import SamplingParams
from charladder.generation.speculative import EarlyExitDrafter, IndependentHeadsDrafter
from charladder.generation.speculative.ngram import MostFrequentNext
from charladder.inference.factory import open_runner
from generation.drafting import random_network


def test_the_commonest_next_character_is_proposed_not_a_rare_one():
    for often, seldom in ((2, 3), (3, 2)):
        text = np.array([0, 1, often, 0, 1, seldom, 0, 1, often], np.uint8)
        counted = MostFrequentNext(text, 2)
        assert counted.predict([0, 1]) == often
        assert counted.predict([1, seldom]) == 0
        assert counted.predict([often, seldom]) == -1


def test_a_layers_classifier_reads_the_state_normed_only_where_it_was_trained_so():
    reader = open_runner(random_network(5))
    random = torch.Generator().manual_seed(1)
    x_ND, weight_VD, bias_V = (torch.randn(*shape, generator=random) for shape in ((3, 32), (5, 32), (5,)))
    for normed in (True, False):
        read = F.layer_norm(x_ND, (32,)) if normed else x_ND
        drafter = EarlyExitDrafter(reader, 1, weight_VD, bias_V, SamplingParams(), normed=normed)
        expected = (read @ weight_VD.T + bias_V).numpy()
        np.testing.assert_allclose(drafter.logits(x_ND.numpy()), expected, rtol=1e-5, atol=1e-5)


def test_target_heads_draft_as_many_characters_as_they_are_given_and_not_more():
    heads = {k: (torch.zeros(5, 8), None) for k in (2, 3, 4, 6)}
    most = {length: IndependentHeadsDrafter(heads, SamplingParams(), length).max_length for length in (1, 2, 3, 8)}
    assert most == {1: 1, 2: 2, 3: 3, 8: 3}  # the head of 5 is missing, so that of 6 is of no use
