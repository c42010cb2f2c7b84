"""Presets against values computed by hand. al_rfou also against a defect of a public reproduction of the paper, whose
integer divisions gave zero."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.auxiliary import presets
from charladder.auxiliary.weights import TermPlace, make_weight_function


@pytest.mark.parametrize("layer", range(1, 64))
def test_layer_l_of_t64_stops_at_l_over_2n(layer):
    end = layer / 128
    assert presets.al_rfou(layer, 64, 0.0) == 1
    assert presets.al_rfou(layer, 64, math.nextafter(end, 0)) == 1
    assert presets.al_rfou(layer, 64, end) == 0
    assert presets.al_rfou(layer, 64, math.nextafter(end, 1)) == 0
    assert presets.al_rfou(layer, 64, 0.5) == 0
    assert presets.al_rfou(layer, 64, 1.0) == 0


@given(st.floats(0, 1))
def test_last_layer_never_stops(progress):
    assert presets.al_rfou(64, 64, progress) == 1


def test_al_rfou_does_not_use_integer_division():
    """`i // (2 * n)` is zero for every layer: all layers would stop at the start."""
    halfway = [presets.al_rfou(layer, 64, 0.25) for layer in range(1, 64)]
    assert halfway == [0.0] * 32 + [1.0] * 31


def test_al_rfou_with_span_1():
    assert presets.al_rfou(32, 64, 0.49, span=1.0) == 1
    assert presets.al_rfou(32, 64, 0.5, span=1.0) == 0


def weights_of_layers(preset, layers, *rest, **more):
    return [preset(layer, layers, *rest, **more) for layer in range(1, layers + 1)]


def test_layerskip_by_hand():
    """n = 4, s = 0.2: e = 0.2, 0.6, 1.2 and 3 + 1.2 = 4.2."""
    rotating = [weights_of_layers(presets.layerskip, 4, 0.0, step=step, every=3) for step in (0, 1, 2)]
    assert rotating[0] == pytest.approx([0, 0, 1.2 / 5.4, 4.2 / 5.4])
    assert rotating[1] == pytest.approx([0.2 / 4.4, 0, 0, 4.2 / 4.4])
    assert rotating[2] == pytest.approx([0, 0.6 / 4.8, 0, 4.2 / 4.8])
    assert weights_of_layers(presets.layerskip_gradual, 4, 0.0) == [0, 0, 0, 1]
    assert weights_of_layers(presets.layerskip_gradual, 4, 0.125) == pytest.approx([0, 0, 1.2 / 5.4, 4.2 / 5.4])
    assert weights_of_layers(presets.layerskip_gradual, 4, 0.5) == pytest.approx(
        [x / 6.2 for x in (0.2, 0.6, 1.2, 4.2)]
    )
    assert presets.layerskip(1, 1, 0.0) == 1


def test_layerskip_counted_from_zero_by_hand():
    """n = 4, s = 0.2, layers 0 to 3: e = 0, 0.2, 0.6 and 3 + 0.6 = 3.6; all layers active, or every third in turn."""
    whole = [presets.layerskip_from_zero(layer, 4, 0.0) for layer in range(1, 5)]
    assert whole == pytest.approx([x / 4.4 for x in (0, 0.2, 0.6, 3.6)])
    turns = [weights_of_layers(presets.layerskip, 4, 0.0, step=step, every=3, from_zero=True) for step in (0, 1, 2)]
    for turn, e in zip(turns, ([0, 0, 0.6, 3.6], [0, 0, 0, 3.6], [0, 0.2, 0, 3.6]), strict=True):
        assert turn == pytest.approx([x / sum(e) for x in e])
    gradual = [weights_of_layers(presets.layerskip_gradual_from_zero, 4, t) for t in (0.0, 0.125, 1.0)]
    assert gradual[0] == [0, 0, 0, 1]
    assert gradual[1] == pytest.approx([0, 0, 0.6 / 4.2, 3.6 / 4.2])
    assert gradual[2] == pytest.approx([x / 4.4 for x in (0, 0.2, 0.6, 3.6)])
    assert presets.layerskip_from_zero(1, 1, 0.0) == presets.layerskip_gradual_from_zero(1, 1, 0.0) == 1
    assert weights_of_layers(presets.layerskip_from_zero, 2, 0.0) == [0, 1]


@pytest.mark.parametrize(("step", "turn"), [(0, 8), (1, 1), (7, 7), (9, 1)])
def test_layerskip_rotates_over_every_rth_layer(step, turn):
    active = [at + 1 for at, w in enumerate(weights_of_layers(presets.layerskip, 32, 0.0, step=step)) if w]
    assert active == sorted({turn % 8 or 8, (turn % 8 or 8) + 8, (turn % 8 or 8) + 16, (turn % 8 or 8) + 24, 32})


def test_other_presets_for_layers_by_hand():
    assert weights_of_layers(presets.ee_llm, 8) == [0, 0.25, 0, 0.5, 0, 0, 0, 1]
    assert weights_of_layers(lambda layer, layers: presets.ee_llm(layer, layers, 0.1, 0.2), 4) == [0.1, 0.2, 0, 1]
    assert weights_of_layers(presets.calm, 4) == [0.1, 0.2, 0.3, 0.4]
    assert weights_of_layers(presets.deed, 4) == [0.25, 0.25, 0.25, 1.25]
    assert [presets.deeply_supervised(False, t) for t in (0, 0.5, 1)] == [0.1, 0.05, 0]
    assert presets.deeply_supervised(True, 0.5) == presets.inception(True) == presets.pspnet(True) == 1
    assert (presets.inception(False), presets.pspnet(False), presets.detr(False)) == (0.3, 0.4, 1)
    assert weights_of_layers(presets.inter_ctc, 4) == pytest.approx([0.1, 0.1, 0.1, 0.7])
    assert presets.inter_ctc(1, 1) == 1
    assert [weights_of_layers(presets.early_anneal, 3, t) for t in (0, 0.025, 0.05)] == [
        [0.1, 0, 1],
        [0.05, 0, 1],
        [0, 0, 1],
    ]
    assert weights_of_layers(presets.shallow_heavy, 4) == pytest.approx([1 / 2, 1 / 3, 1 / 4, 1])


def test_ee_llm_rounds_a_quarter_and_a_half_of_the_depth_up():
    assert weights_of_layers(presets.ee_llm, 1) == [1]
    assert weights_of_layers(presets.ee_llm, 2) == [0.5, 1]  # both exits are layer 1: the second weight applies
    assert weights_of_layers(presets.ee_llm, 3) == [0.25, 0.5, 1]
    assert weights_of_layers(presets.ee_llm, 5) == [0, 0.25, 0.5, 0, 1]
    assert weights_of_layers(presets.ee_llm, 6) == [0, 0.25, 0.5, 0, 0, 1]
    assert weights_of_layers(presets.ee_llm, 7) == [0, 0.25, 0, 0.5, 0, 0, 1]
    assert weights_of_layers(presets.ee_llm, 9) == [0, 0, 0.25, 0, 0.5, 0, 0, 0, 1]


def test_deepseek_changes_at_10_of_14_8_parts():
    boundary = 10 / 14.8
    assert presets.deepseek(2, 2, math.nextafter(boundary, 0)) == 0.3
    assert presets.deepseek(2, 2, boundary) == 0.1
    assert [presets.deepseek(k, 4, t) for t in (boundary, 1.0) for k in (1, 2, 4)] == [1, 0.1 / 3, 0.1 / 3] * 2


# The weights of all layers of 6, or of all targets of 4, by progress; from the formulas of the papers.
EXACT_INTERMEDIATE = {
    "al_rfou": {
        0.0: [1] * 6, 1 / 12: [0, 1, 1, 1, 1, 1], 0.25: [0, 0, 0, 1, 1, 1], 0.5: [0] * 5 + [1], 1.0: [0] * 5 + [1],
    },
    # R = 6 // 4 = 1: every layer is active. e = 0.2, 0.6, 1.2, 2, 3 and 5 + 3; their sum is 15.
    "layerskip": {t: [0.2 / 15, 0.6 / 15, 1.2 / 15, 2 / 15, 3 / 15, 8 / 15] for t in (0.0, 1.0)},
    "layerskip_gradual": {
        0.0: [0] * 5 + [1], 0.08: [0] * 5 + [1], 1 / 12: [0] * 4 + [3 / 11, 8 / 11],
        0.25: [0, 0, 1.2 / 14.2, 2 / 14.2, 3 / 14.2, 8 / 14.2],
        1.0: [0.2 / 15, 0.6 / 15, 1.2 / 15, 2 / 15, 3 / 15, 8 / 15],
    },
    # Counted from 0: e = 0, 0.2, 0.6, 1.2, 2 and 5 + 2; their sum is 11.
    "layerskip_from_zero": {t: [0, 0.2 / 11, 0.6 / 11, 1.2 / 11, 2 / 11, 7 / 11] for t in (0.0, 1.0)},
    "layerskip_gradual_from_zero": {
        0.0: [0] * 5 + [1], 1 / 12: [0] * 4 + [2 / 9, 7 / 9], 0.25: [0, 0, 0.6 / 10.8, 1.2 / 10.8, 2 / 10.8, 7 / 10.8],
        1.0: [0, 0.2 / 11, 0.6 / 11, 1.2 / 11, 2 / 11, 7 / 11],
    },
    "ee_llm": {t: [0, 0.25, 0.5, 0, 0, 1] for t in (0.0, 1.0)},
    "calm": {t: [1 / 21, 2 / 21, 3 / 21, 4 / 21, 5 / 21, 6 / 21] for t in (0.0, 1.0)},
    "deed": {t: [1 / 6] * 5 + [7 / 6] for t in (0.0, 1.0)},
    "deeply_supervised": {0.0: [0.1] * 5 + [1], 0.3: [0.07] * 5 + [1], 1.0: [0] * 5 + [1]},
    "inception": {t: [0.3] * 5 + [1] for t in (0.0, 1.0)},
    "pspnet": {t: [0.4] * 5 + [1] for t in (0.0, 1.0)},
    "inter_ctc": {t: [0.06] * 5 + [0.7] for t in (0.0, 1.0)},
    "detr": {t: [1] * 6 for t in (0.0, 1.0)},
    "early_anneal": {0.0: [0.1, 0, 0, 0, 0, 1], 0.01: [0.08, 0, 0, 0, 0, 1], 0.05: [0] * 5 + [1], 1.0: [0] * 5 + [1]},
    "shallow_heavy": {t: [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1] for t in (0.0, 1.0)},
}  # fmt: skip
EXACT_TARGETS = {
    "al_rfou": {t: [1, 0.5, 0.5, 0.5] for t in (0.0, 1.0)},
    "multi_token": {t: [1, 1, 1, 1] for t in (0.0, 1.0)},
    "multi_token_anneal": {
        0.0: [1, 0.5, 0.25, 0], 0.2: [1, 0.5, 0.1, 0], 0.4: [1, 0.4, 0, 0], 0.5: [1, 0.25, 0, 0], 0.7: [1, 0, 0, 0],
    },
    "forward_curriculum": {0.0: [1, 0, 0, 0], 0.24: [1, 0, 0, 0], 0.25: [1, 1, 0, 0], 0.5: [1, 1, 1, 0], 0.75: [1] * 4},
    "reverse_curriculum": {0.0: [1] * 4, 0.24: [1] * 4, 0.25: [1, 1, 1, 0], 0.5: [1, 1, 0, 0], 1.0: [1, 0, 0, 0]},
    "medusa": {t: [1, 0.8, 0.64, 0.512] for t in (0.0, 1.0)},
    "deepseek": {0.0: [1, 0.1, 0.1, 0.1], 0.67: [1, 0.1, 0.1, 0.1], 0.68: [1] + [0.1 / 3] * 3},
}  # fmt: skip


@pytest.mark.parametrize("name", presets.INTERMEDIATE)
def test_exact_weights_of_every_preset_for_layers(name):
    for progress, expected in EXACT_INTERMEDIATE[name].items():
        found = [
            make_weight_function("a term", name, TermPlace(layer, 6, main=layer == 6))(progress, 0)
            for layer in range(1, 7)
        ]
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", sorted(presets.TARGETS.keys() - {"blockwise"}))  # is random
def test_exact_weights_of_every_preset_for_targets(name):
    for progress, expected in EXACT_TARGETS[name].items():
        found = [
            make_weight_function("a term", presets.TARGETS[name], TermPlace(None, None, k, 4))(progress, 0)
            for k in range(1, 5)
        ]
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


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


def test_blockwise_draws_one_target_uniformly():
    turns = [[presets.blockwise(k, 4, step) for k in (1, 2, 3, 4)] for step in range(4000)]
    assert all(sum(turn) == 1 for turn in turns)
    assert [sum(column) / 4000 for column in zip(*turns, strict=True)] == pytest.approx([0.25] * 4, abs=0.03)
    assert turns[:20] == [[presets.blockwise(k, 4, step) for k in (1, 2, 3, 4)] for step in range(20)]
    assert turns[:20] != [[presets.blockwise(k, 4, step, seed=1) for k in (1, 2, 3, 4)] for step in range(20)]


def weight(name, layer, layers, progress, step, offset=1, offsets=3):
    place = TermPlace(layer, layers, offset, offsets, main=(layer, offset) == (layers, 1))
    return make_weight_function("a term", name, place)(progress, step)


@given(st.sampled_from(sorted(presets.INTERMEDIATE)), st.integers(1, 70), st.floats(0, 1), st.integers(0, 10**6))
def test_every_preset_for_layers_is_bounded_and_pure(name, layers, progress, step):
    weights = [weight(name, layer, layers, progress, step) for layer in range(1, layers + 1)]
    assert all(0 <= one <= 2 for one in weights)
    assert weights[-1] > 0  # the main loss is always active
    assert weights == [weight(name, layer, layers, progress, step) for layer in range(1, layers + 1)]


@given(st.sampled_from(sorted(presets.TARGETS)), st.integers(1, 9), st.floats(0, 1), st.integers(0, 10**6))
def test_every_preset_for_targets_is_bounded_and_pure(name, offsets, progress, step):
    weights = [weight(name, 1, 1, progress, step, k, offsets) for k in range(1, offsets + 1)]
    assert all(0 <= one <= 1 for one in weights)
    assert any(weights)


@pytest.mark.parametrize("name", ["early_anneal", "deeply_supervised", "al_rfou"])
def test_fading_presets_end_at_0(name):
    assert weight(name, 1, 4, 1.0, 0) == 0
