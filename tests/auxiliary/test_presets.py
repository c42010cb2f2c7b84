"""Presets by values worked out by hand. The paper's: against the defects of its public reproduction, whose integer
divisions gave zero."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.auxiliary import presets
from charladder.auxiliary.weights import Place, weigher


@pytest.mark.parametrize("layer", range(1, 64))
def test_every_rung_of_t64_leaves_at_l_over_2n(layer):
    end = layer / 128
    assert presets.al_rfou(layer, 64, 0.0) == 1
    assert presets.al_rfou(layer, 64, math.nextafter(end, 0)) == 1
    assert presets.al_rfou(layer, 64, end) == 0
    assert presets.al_rfou(layer, 64, math.nextafter(end, 1)) == 0
    assert presets.al_rfou(layer, 64, 0.5) == 0
    assert presets.al_rfou(layer, 64, 1.0) == 0


@given(st.floats(0, 1))
def test_the_last_layer_never_leaves(progress):
    assert presets.al_rfou(64, 64, progress) == 1


def test_no_integer_division():
    """`i // (2 * n)` is zero for every layer: then all rungs would leave at once, at the start."""
    halfway = [presets.al_rfou(layer, 64, 0.25) for layer in range(1, 64)]
    assert halfway == [0.0] * 32 + [1.0] * 31


def test_span_of_the_other_figure():
    assert presets.al_rfou(32, 64, 0.49, span=1.0) == 1
    assert presets.al_rfou(32, 64, 0.5, span=1.0) == 0


def over_layers(preset, layers, *rest, **more):
    return [preset(layer, layers, *rest, **more) for layer in range(1, layers + 1)]


def test_layerskip_by_hand():
    """n = 4, s = 0.2: e = 0.2, 0.6, 1.2 and 3 + 1.2 = 4.2."""
    rotating = [over_layers(presets.layerskip, 4, 0.0, step=step, every=3) for step in (0, 1, 2)]
    assert rotating[0] == pytest.approx([0, 0, 1.2 / 5.4, 4.2 / 5.4])
    assert rotating[1] == pytest.approx([0.2 / 4.4, 0, 0, 4.2 / 4.4])
    assert rotating[2] == pytest.approx([0, 0.6 / 4.8, 0, 4.2 / 4.8])
    assert over_layers(presets.layerskip_gradual, 4, 0.0) == [0, 0, 0, 1]
    assert over_layers(presets.layerskip_gradual, 4, 0.125) == pytest.approx([0, 0, 1.2 / 5.4, 4.2 / 5.4])
    assert over_layers(presets.layerskip_gradual, 4, 0.5) == pytest.approx([x / 6.2 for x in (0.2, 0.6, 1.2, 4.2)])
    assert presets.layerskip(1, 1, 0.0) == 1


@pytest.mark.parametrize(("step", "turn"), [(0, 8), (1, 1), (7, 7), (9, 1)])
def test_layerskip_takes_every_rth_layer_in_turn(step, turn):
    active = [at + 1 for at, w in enumerate(over_layers(presets.layerskip, 32, 0.0, step=step)) if w]
    assert active == sorted({turn % 8 or 8, (turn % 8 or 8) + 8, (turn % 8 or 8) + 16, (turn % 8 or 8) + 24, 32})


def test_the_other_presets_for_rungs_by_hand():
    assert over_layers(presets.ee_llm, 8) == [0, 0.25, 0, 0.5, 0, 0, 0, 1]
    assert over_layers(lambda layer, layers: presets.ee_llm(layer, layers, 0.1, 0.2), 4) == [0.1, 0.2, 0, 1]
    assert over_layers(presets.calm, 4) == [0.1, 0.2, 0.3, 0.4]
    assert over_layers(presets.deed, 4) == [0.25, 0.25, 0.25, 1.25]
    assert [presets.deeply_supervised(False, t) for t in (0, 0.5, 1)] == [0.1, 0.05, 0]
    assert presets.deeply_supervised(True, 0.5) == presets.inception(True) == presets.pspnet(True) == 1
    assert (presets.inception(False), presets.pspnet(False), presets.detr(False)) == (0.3, 0.4, 1)
    assert over_layers(presets.inter_ctc, 4) == pytest.approx([0.1, 0.1, 0.1, 0.7])
    assert presets.inter_ctc(1, 1) == 1
    assert [over_layers(presets.early_anneal, 3, t) for t in (0, 0.025, 0.05)] == [[0.1, 0, 1], [0.05, 0, 1], [0, 0, 1]]
    assert over_layers(presets.shallow_heavy, 4) == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1])


def test_presets_for_targets_by_hand():
    assert [presets.al_rfou_targets(k) for k in (1, 2, 3)] == [1, 0.5, 0.5]
    assert [presets.multi_token(k) for k in (1, 8)] == [1, 1]
    anneal = [[presets.multi_token_anneal(k, t) for k in (1, 2, 3, 4)] for t in (0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 1)]
    assert anneal == [
        pytest.approx(row)
        for row in ([1, 0.5, 0.25, 0], [1, 0.5, 0.125, 0], [1, 0.5, 0, 0], [1, 0.25, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0])
    ]
    forward = [[presets.forward_curriculum(k, 4, t) for k in (1, 2, 3, 4)] for t in (0, 0.25, 0.75, 1)]
    assert forward == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    reverse = [[presets.reverse_curriculum(k, 4, t) for k in (1, 2, 3, 4)] for t in (0, 0.25, 0.75, 1)]
    assert reverse == [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert [presets.medusa(k) for k in (1, 2, 3)] == pytest.approx([1, 0.8, 0.64])
    assert [presets.deepseek(k, 3, 0.0) for k in (1, 2, 3)] == [1, 0.15, 0.15]
    assert [presets.deepseek(k, 2, 0.7) for k in (1, 2)] == [1, 0.1]


def test_blockwise_gives_one_target_its_turn_and_all_the_same_share():
    turns = [[presets.blockwise(k, 4, step) for k in (1, 2, 3, 4)] for step in range(4000)]
    assert all(sum(turn) == 1 for turn in turns)
    assert [sum(column) / 4000 for column in zip(*turns, strict=True)] == pytest.approx([0.25] * 4, abs=0.03)
    assert turns[:20] == [[presets.blockwise(k, 4, step) for k in (1, 2, 3, 4)] for step in range(20)]
    assert turns[:20] != [[presets.blockwise(k, 4, step, seed=1) for k in (1, 2, 3, 4)] for step in range(20)]


def weight(name, layer, layers, progress, step, offset=1, offsets=3):
    place = Place(layer, layers, offset, offsets, main=(layer, offset) == (layers, 1))
    return weigher("a term", name, place)(progress, step)


@given(st.sampled_from(sorted(presets.RUNGS)), st.integers(1, 70), st.floats(0, 1), st.integers(0, 10**6))
def test_every_preset_for_rungs_is_bounded_and_pure(name, layers, progress, step):
    weights = [weight(name, layer, layers, progress, step) for layer in range(1, layers + 1)]
    assert all(0 <= one <= 2 for one in weights)
    assert weights[-1] > 0  # nobody takes the main loss away
    assert weights == [weight(name, layer, layers, progress, step) for layer in range(1, layers + 1)]


@given(st.sampled_from(sorted(presets.TARGETS)), st.integers(1, 9), st.floats(0, 1), st.integers(0, 10**6))
def test_every_preset_for_targets_is_bounded_and_pure(name, offsets, progress, step):
    weights = [weight(name, 1, 1, progress, step, k, offsets) for k in range(1, offsets + 1)]
    assert all(0 <= one <= 1 for one in weights)
    assert any(weights)


@pytest.mark.parametrize("name", ["early_anneal", "deeply_supervised", "al_rfou"])
def test_those_that_fade_are_gone_at_the_end(name):
    assert weight(name, 1, 4, 1.0, 0) == 0
