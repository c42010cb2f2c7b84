"""The network: cached decoding, causality, hidden states, positions, limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charladder.errors import UserError
from charladder.model import KVCache, Transformer
from helpers import small

VARIANTS = [
    small(),
    small(block="paper"),
    small(block="paper", norm_placement="post", positions="table"),
    small(block="modern", positions="tables"),
    small(block="paper", positions="sinusoidal"),
    small(block="modern", positions="sinusoidal"),
]


def tokens(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def network(settings, seed=0) -> Transformer:
    """A network in float64, to tell errors from rounding, whose output matrices are not zero."""
    model = Transformer(settings, 256, seed).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)).double())
    return model


@pytest.mark.parametrize("settings_", VARIANTS)
@torch.no_grad()
def test_cached_decoding_equals_full_recomputation(settings_):
    model, x = network(settings_), tokens(2, 2, 16)
    full = model(x).logits_BTV
    for pieces in ([1] * 16, [5, 1, 1, 9], [16]):
        cache, begin = KVCache(settings_, 2, dtype=torch.float64), 0
        for size in pieces:
            got = model(x[:, begin : begin + size], cache=cache).logits_BTV
            torch.testing.assert_close(got, full[:, begin : begin + size], rtol=1e-9, atol=1e-9)
            begin += size


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 16)), min_size=1, max_size=8), st.sampled_from([0, 1, 2, 4])
)
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_rolled_back_cache_equals_a_new_one(moves, variant):
    model, cache, ids = network(VARIANTS[variant]), KVCache(VARIANTS[variant], 1, dtype=torch.float64), []
    for turn, (size, back_to) in enumerate(moves):
        piece = tokens(turn, size).tolist()[: 16 - len(ids)]
        if piece:
            ids += piece
            got = model(torch.tensor([piece]), cache=cache).logits_BTV[:, -1]
            torch.testing.assert_close(got, model(torch.tensor([ids])).logits_BTV[:, -1], rtol=1e-9, atol=1e-9)
        ids = ids[:back_to]
        cache.seek(len(ids))


@pytest.mark.parametrize("settings_", VARIANTS)
@torch.no_grad()
def test_network_is_causal(settings_):
    model, x = network(settings_), tokens(3, 1, 16)
    changed = x.clone()
    changed[0, 9] = (x[0, 9] + 1) % 256
    before, after = model(x).logits_BTV, model(changed).logits_BTV
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9], after[:, 9])


@torch.no_grad()
def test_output_hidden_and_logits_to_keep():
    model, x = network(small()), tokens(4, 2, 12)
    whole, last = model(x, output_hidden=(1, 2, 3)), model(x, output_hidden=(1, 3), logits_to_keep=2)
    torch.testing.assert_close(last.logits_BTV, whole.logits_BTV[:, -2:])
    assert set(last.hidden) == {1, 3}
    torch.testing.assert_close(last.hidden[1], whole.hidden[1][:, -2:])
    torch.testing.assert_close(model.output(whole.hidden[3]), whole.logits_BTV)
    assert model(x).hidden == {}


def test_on_hidden_gets_every_state_and_none_is_stored():
    model, x, seen = network(small()), tokens(4, 2, 12), []
    output = model(
        x, output_hidden=(1, 3), logits_to_keep=2, on_hidden=lambda layer, state: seen.append((layer, state))
    )
    expected = model(x, output_hidden=(1, 3), logits_to_keep=2).hidden
    assert output.hidden == {} and [layer for layer, _ in seen] == [1, 3]
    assert all(torch.equal(state, expected[layer]) for layer, state in seen)


def test_position_tables_per_layer():
    model = Transformer(small(block="paper"), 256)
    assert len(model.tables) == 3
    model(tokens(5, 2, 16)).logits_BTV.sum().backward()
    gradients = [table.grad for table in model.tables]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)
    assert len(Transformer(small(block="paper", positions="table"), 256).tables) == 1


@pytest.mark.parametrize("changes", [{}, {"width": 33, "attention_heads": 3}])
def test_sinusoidal_positions_are_added_before_the_first_layer_only(changes):
    """Compares with the formula of Vaswani et al. 2017, section 3.5, also past the context. It has no parameters."""
    network, x = Transformer(small(block="paper", positions="sinusoidal", **changes), 256), tokens(5, 2, 40)
    inputs, outputs = [], []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        block.register_forward_hook(lambda _, given, output: outputs.append(output))
    with torch.inference_mode():
        network(x)
    width, expected = network.settings.width, network.embedding.weight[x].detach().clone()
    for position in range(40):
        for column in range(width):
            angle = position / 10000 ** (2 * (column // 2) / width)
            expected[:, position, column] += math.cos(angle) if column % 2 else math.sin(angle)
    torch.testing.assert_close(inputs[0], expected, rtol=0, atol=1e-6)
    assert all(torch.equal(below, above) for below, above in zip(outputs, inputs[1:], strict=False))
    network(x).logits_BTV.sum().backward()
    without = {name for name, _ in small_network("table").named_parameters()} - {"tables.0"}
    assert {name for name, _ in network.named_parameters()} == without == set(network.state_dict())


def small_network(positions: str) -> Transformer:
    return Transformer(small(block="paper", positions=positions), 256)


@torch.no_grad()
def test_sinusoidal_positions_in_other_dtypes():
    network, x = small_network("sinusoidal"), tokens(5, 2, 16)
    exact = network(x).logits_BTV
    assert network.bfloat16()(x).logits_BTV.dtype == torch.bfloat16
    torch.testing.assert_close(network.double()(x).logits_BTV, exact.double(), rtol=0.1, atol=0.02)


def test_rotary_scores_depend_only_on_distance():
    from charladder.model.rotary import rotary_angles, rotate

    cos, sin = rotary_angles(small(), 16)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def score(i: int, j: int) -> float:
        return float((rotate(q, cos[i], sin[i]) * rotate(k, cos[j], sin[j])).sum())

    assert math.isclose(score(3, 1), score(9, 7), abs_tol=1e-5)
    assert not math.isclose(score(3, 1), score(9, 6), abs_tol=1e-3)


def test_too_many_characters_for_tables_or_cache():
    with pytest.raises(UserError, match="17 characters are more than the 16"):
        Transformer(small(block="paper"), 256)(tokens(6, 1, 17))
    with pytest.raises(UserError, match="17 characters are more than the 16 the cache"):
        Transformer(small(), 256)(tokens(6, 1, 17), cache=KVCache(small()))
    assert Transformer(small(), 256)(tokens(6, 1, 40)).logits_BTV.shape == (1, 40, 256)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"width": 33}, "width 33 is not divisible by model.attention_heads 2"),
        ({"layers": 0}, "model.layers is 0"),
        ({"width": -8}, "model.width is -8"),
        ({"context": 1}, "at least 2"),
        ({"dropout": 1.0}, "below 1"),
        ({"width": 6}, "odd number"),
    ],
)
def test_invalid_settings(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        small(**changes)


def test_seed_determines_the_weights():
    one, same, other = (Transformer(small(), 256, seed).embedding.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
