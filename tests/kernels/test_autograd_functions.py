"""The autograd functions compute the same as the torch functions they replace, and `accelerate` uses them."""

import copy

import pytest
import torch
import torch.nn.functional as F

from charladder.kernels import accelerate, autograd_functions, causal_attention, reference
from charladder.kernels.reference import HeadLayout
from charladder.model import Transformer
from charladder.model.block import Block
from charladder.model.rotary import rotary_angles, rotate
from helpers import small


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agree(ours, theirs, *inputs, tolerance=1e-10):
    """Both give the same values, and the same gradients for a random direction."""
    results = []
    for function in (ours, theirs):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = function(*leaves)
        gradients = torch.autograd.grad(value, leaves, draw(*value.shape, seed=9).to(value.dtype))
        results.append((value.detach(), *gradients))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(3, 5, 8), (7, 8), (2, 1, 1, 8)])
def test_normalise(shape):
    agree(
        lambda x, g: autograd_functions.RMSNormFunction.apply(x, g, 1e-6),
        lambda x, g: F.rms_norm(x, (8,), g, 1e-6),
        draw(*shape), 1 + draw(8, seed=1),
    )  # fmt: skip


def test_normalise_of_a_transposed_view():
    agree(
        lambda x, g: autograd_functions.RMSNormFunction.apply(x.transpose(1, 2), g, 1e-6),
        lambda x, g: F.rms_norm(x.transpose(1, 2), (8,), g, 1e-6),
        draw(2, 5, 3, 8), 1 + draw(8, seed=1),
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 300])
@pytest.mark.parametrize("at_once", [1 << 21, 1 << 14])
def test_attention_piece_by_piece(length, at_once, monkeypatch):
    monkeypatch.setattr(causal_attention, "MAX_SCORES", at_once)
    q, k, v = (draw(6, length, 6, seed=seed) for seed in range(3))
    layout = HeadLayout(2, length, 3, 6)

    class Attend(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *qkv):
            y, kept = causal_attention.attention(reference, torch.stack(qkv), layout)
            ctx.save_for_backward(torch.stack(qkv), y, *kept)
            return y

        @staticmethod
        def backward(ctx, gradient):
            qkv, y, *kept = ctx.saved_tensors
            return tuple(causal_attention.attention_backward(reference, gradient, qkv, y, kept, layout))

    def theirs(q, k, v):
        y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=1.0)[0]
        return causal_attention.merge_heads(y, layout)

    agree(Attend.apply, theirs, q, k, v)


def test_the_pieces_of_attention_cover_every_query_once(monkeypatch):
    monkeypatch.setattr(causal_attention, "MAX_SCORES", 3 * 128 * 300)
    seen = torch.zeros(7, 300)
    for heads, begin, end in causal_attention.blocks(7, 300):
        seen[heads, begin:end] += 1
    assert seen.eq(1).all()


@pytest.mark.parametrize("turned", [True, False])
def test_attended(turned):
    angles = rotary_angles(small(), 12) if turned else None
    H, E = 2, small().head_size
    D = H * E

    def theirs(x, gain, query, key, value, query_gain, key_gain, output):
        y = F.rms_norm(x, (D,), gain, 1e-6)
        q, k, v = ((y @ w.mT).view(2, 12, H, E).transpose(1, 2) for w in (query, key, value))
        q, k = F.rms_norm(q, (E,), query_gain, 1e-6), F.rms_norm(k, (E,), key_gain, 1e-6)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + y.transpose(1, 2).reshape(2, 12, D) @ output.mT

    matrices = [draw(D, D, seed=seed) for seed in range(1, 4)]
    gains = [1 + draw(E, seed=seed) for seed in (4, 5)]
    agree(
        lambda *inputs: autograd_functions.AttentionFunction.apply(*inputs, angles, 1e-6),
        theirs,
        draw(2, 12, D), 1 + draw(D, seed=6), *matrices, *gains, draw(D, D, seed=7),
    )  # fmt: skip


def test_gated():
    def theirs(x, gain, gate, up, down):
        y = F.rms_norm(x, (4,), gain, 1e-6)
        return x + (F.silu(y @ gate.mT) * (y @ up.mT)) @ down.mT

    agree(
        lambda *inputs: autograd_functions.SwiGLUFunction.apply(*inputs, 1e-6),
        theirs,
        draw(3, 3, 4), 1 + draw(4, seed=4), draw(10, 4, seed=1), draw(10, 4, seed=2), draw(4, 10, seed=3),
    )  # fmt: skip


def test_queries_and_keys_are_left_as_they_were_even_where_one_row_is_one_window():
    layout = reference.HeadLayout(1, 1, 1, 4)
    mixed, gain = draw(1, 12), 1 + draw(2, 4, seed=1)
    before = mixed.clone()
    reference.split_heads(mixed, gain, (torch.ones(1, 4), torch.zeros(1, 4)), 1e-6, layout)
    assert torch.equal(mixed, before)


def accelerated(**changes):
    network = Transformer(small(**changes), 16)
    accelerate(network)
    return network


def test_accelerate_changes_neither_parameters_nor_names():
    network, fast = Transformer(small(), 16), accelerated()
    assert list(network.state_dict()) == list(fast.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), fast.parameters(), strict=True))
    classes = [type(module) for module in fast.modules()]
    accelerate(fast)
    assert [type(module) for module in fast.modules()] == classes
    assert isinstance(fast.blocks[0], Block)
    tokens = torch.arange(12).view(1, 12)
    assert "AttentionFunctionBackward" in names(copy.deepcopy(fast)(tokens).logits_BTV)
    assert "AttentionFunctionBackward" not in names(network(tokens).logits_BTV)


def test_blocks_with_an_odd_head_size_are_not_accelerated():
    network = accelerated(width=33, attention_heads=11, positions="tables").double()
    tokens = torch.arange(24).view(2, 12) % 16
    trained = network(tokens).logits_BTV
    assert "AttentionFunctionBackward" not in names(trained)
    with torch.no_grad():
        torch.testing.assert_close(trained.detach(), network(tokens).logits_BTV, rtol=1e-10, atol=1e-10)


def test_hooks_and_replaced_modules_inside_a_block_take_part():
    network = accelerated()
    tokens, called = torch.arange(12).view(1, 12), []
    hook = network.blocks[1].attention.register_forward_hook(lambda *given: called.append(given[-1].shape))
    network(tokens)
    assert called == [(1, 12, 32)]
    hook.remove()
    network.blocks[1].feed_forward.down = torch.nn.Sequential(
        network.blocks[1].feed_forward.down, torch.nn.Dropout(1.0)
    )
    network(tokens).logits_BTV.sum().backward()
    assert not network.blocks[1].feed_forward.up.weight.grad.any()


def test_training_and_inference_agree():
    network = accelerated().double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    tokens = torch.arange(24).view(2, 12) % 16
    trained = network(tokens).logits_BTV
    assert "SwiGLUFunctionBackward" in names(trained)
    with torch.no_grad():
        torch.testing.assert_close(trained.detach(), network(tokens).logits_BTV, rtol=1e-10, atol=1e-10)


def test_all_gradients_equal_those_of_autograd():
    plain = Transformer(small(), 16).double()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    tokens = torch.arange(24).view(2, 12) % 16
    gradients = []
    for network in (plain, fast):
        output = network(tokens).logits_BTV
        assert ("AttentionFunctionBackward" in names(output)) == (network is fast)
        F.cross_entropy(output.flatten(0, 1), tokens.flatten()).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_under_autocast_products_are_in_bfloat16_and_gradients_near_those_of_float32():
    network = accelerated()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    tokens = torch.arange(24).view(2, 12) % 16
    found = []
    for half in (True, False):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(tokens).logits_BTV
        assert output.dtype == (torch.bfloat16 if half else torch.float32)
        F.cross_entropy(output.float().flatten(0, 1), tokens.flatten()).backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert F.cosine_similarity(*found, dim=0) > 0.999


def names(tensor):
    """The names of all steps of the graph behind a tensor."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return {node.name() for node in found}
