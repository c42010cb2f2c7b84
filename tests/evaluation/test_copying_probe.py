"""The copying probe on predictors whose answers are known."""

import numpy as np
import pytest
import torch

from charladder.errors import UserError
from charladder.evaluation.copying_probe import NAME_LETTERS, name_letters, probe_copying, space_ids
from charladder.text import Alphabet

PROSE = np.frombuffer(b"the ladder leans on the wall and every layer of it is asked what it sees below " * 40, np.uint8)


def uniform(tokens_PT: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*tokens_PT.shape, 256)


def copier(tokens_PT: torch.Tensor) -> torch.Tensor:
    """Knows what followed the last three characters when they stood there before; else nothing."""
    logits_PTV = torch.zeros(*tokens_PT.shape, 256)
    for row, tokens_T in enumerate(tokens_PT.tolist()):
        for place in range(len(tokens_T) - NAME_LETTERS, len(tokens_T)):
            end = tokens_T[place - 2 : place + 1]
            for before in range(place - 1, 1, -1):
                if tokens_T[before - 2 : before + 1] == end:
                    logits_PTV[row, place, tokens_T[before + 1]] = 20.0
                    break
    return logits_PTV


def test_uniform_predictor_saves_nothing():
    for one in probe_copying(uniform, Alphabet(), PROSE, (0, len(PROSE)), 128, 20):
        assert one.bits_L == pytest.approx([8.0] * NAME_LETTERS)
        assert one.control_bits_L == pytest.approx([8.0] * NAME_LETTERS)
        assert (one.saved, one.saved_within) == (0.0, 0.0)
        assert one.ranks_L == [0.0] * NAME_LETTERS  # nothing is likelier than anything


def test_copying_predictor_predicts_from_the_fourth_letter():
    found = probe_copying(copier, Alphabet(), PROSE, (0, len(PROSE)), 128, 20)
    assert [one.distance for one in found] == [16, 32, 64, 96]
    for one in found:
        assert max(one.bits_L[3:]) < 0.01 and min(one.control_bits_L[3:]) > 6
        assert one.ranks_L[3:] == [0.0] * (NAME_LETTERS - 3)
        assert one.saved > 4 and 0 < one.saved_within < one.saved


def test_the_same_probes_for_the_same_seed():
    first, again, other = (
        [one.as_dict() for one in probe_copying(copier, Alphabet(), PROSE, (0, len(PROSE)), 64, 5, seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_names_use_letters_of_the_text():
    assert bytes(name_letters(Alphabet(), PROSE).astype(np.uint8)) == bytes(sorted(set(PROSE) - {32}))
    genome = np.frombuffer(b"ACGT" * 50, np.uint8)
    assert bytes(name_letters(Alphabet(), genome).astype(np.uint8)) == b"ACGT"
    assert space_ids(Alphabet("abc")).size == 0 and space_ids(Alphabet()).tolist() == [32]


def test_smallest_context_and_text_of_a_probe():
    with pytest.raises(UserError, match=r"context of 16 .* too short for the copying probe, which needs at least 32"):
        probe_copying(uniform, Alphabet(), PROSE, (0, len(PROSE)), 16)
    with pytest.raises(UserError, match="at least 32"):
        probe_copying(uniform, Alphabet(), PROSE, (0, len(PROSE)), 31)
    with pytest.raises(UserError, match=r"text of 128 .* too short for the copying probe, which needs more than"):
        probe_copying(uniform, Alphabet(), PROSE, (0, 128), 128)
    [score] = probe_copying(uniform, Alphabet(), PROSE, (0, 33), 32, 2)
    assert score.distance == 8
