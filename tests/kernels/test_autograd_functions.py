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


def random_tensor(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_agree(function, expected, *inputs, tolerance=1e-10):
    """Both functions give the same values, and the same gradients for a random direction."""
    results = []
    for one in (function, expected):
        leaves = [x.clone().requires_grad_() for x in inputs]
        value = one(*leaves)
        gradients = torch.autograd.grad(value, leaves, random_tensor(*value.shape, seed=9).to(value.dtype))
        results.append((value.detach(), *gradients))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(3, 5, 8), (7, 8), (2, 1, 1, 8)])
def test_rms_norm(shape):
    assert_agree(
        lambda x, g: autograd_functions.RMSNormFunction.apply(x, g, 1e-6),
        lambda x, g: F.rms_norm(x, (8,), g, 1e-6),
        random_tensor(*shape), 1 + random_tensor(8, seed=1),
    )  # fmt: skip


def test_rms_norm_of_a_transposed_view():
    assert_agree(
        lambda x, g: autograd_functions.RMSNormFunction.apply(x.transpose(1, 2), g, 1e-6),
        lambda x, g: F.rms_norm(x.transpose(1, 2), (8,), g, 1e-6),
        random_tensor(2, 5, 3, 8), 1 + random_tensor(8, seed=1),
    )  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 127, 128, 129, 300])
@pytest.mark.parametrize("max_scores", [1 << 21, 1 << 14])
def test_blockwise_attention(length, max_scores, monkeypatch):
    monkeypatch.setattr(causal_attention, "MAX_SCORES", max_scores)
    q, k, v = (random_tensor(6, length, 6, seed=seed) for seed in range(3))
    layout = HeadLayout(2, length, 3, 6)

    class BlockwiseAttention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *qkv):
            y, saved = causal_attention.attention(reference, torch.stack(qkv), layout)
            ctx.save_for_backward(torch.stack(qkv), y, *saved)
            return y

        @staticmethod
        def backward(ctx, gradient):
            qkv, y, *saved = ctx.saved_tensors
            return tuple(causal_attention.attention_backward(reference, gradient, qkv, y, saved, layout))

    def expected(q, k, v):
        y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, scale=1.0)[0]
        return causal_attention.merge_heads(y, layout)

    assert_agree(BlockwiseAttention.apply, expected, q, k, v)


def test_attention_blocks_cover_every_query_once(monkeypatch):
    monkeypatch.setattr(causal_attention, "MAX_SCORES", 3 * 128 * 300)
    seen = torch.zeros(7, 300)
    for heads, begin, end in causal_attention.blocks(7, 300):
        seen[heads, begin:end] += 1
    assert seen.eq(1).all()


@pytest.mark.parametrize("rotary", [True, False])
def test_attention_function(rotary):
    angles = rotary_angles(small(), 12) if rotary else None
    H, E = 2, small().head_size
    D = H * E

    def expected(x, gain, query, key, value, query_gain, key_gain, output):
        y = F.rms_norm(x, (D,), gain, 1e-6)
        q, k, v = ((y @ w.mT).view(2, 12, H, E).transpose(1, 2) for w in (query, key, value))
        q, k = F.rms_norm(q, (E,), query_gain, 1e-6), F.rms_norm(k, (E,), key_gain, 1e-6)
        if angles is not None:
            q, k = rotate(q, *angles), rotate(k, *angles)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + y.transpose(1, 2).reshape(2, 12, D) @ output.mT

    matrices = [random_tensor(D, D, seed=seed) for seed in range(1, 4)]
    gains = [1 + random_tensor(E, seed=seed) for seed in (4, 5)]
    assert_agree(
        lambda *inputs: autograd_functions.AttentionFunction.apply(*inputs, angles, 1e-6),
        expected,
        random_tensor(2, 12, D), 1 + random_tensor(D, seed=6), *matrices, *gains, random_tensor(D, D, seed=7),
    )  # fmt: skip


def test_swiglu_function():
    def expected(x, gain, gate, up, down):
        y = F.rms_norm(x, (4,), gain, 1e-6)
        return x + (F.silu(y @ gate.mT) * (y @ up.mT)) @ down.mT

    assert_agree(
        lambda *inputs: autograd_functions.SwiGLUFunction.apply(*inputs, 1e-6),
        expected,
        random_tensor(3, 3, 4), 1 + random_tensor(4, seed=4),
        random_tensor(10, 4, seed=1), random_tensor(10, 4, seed=2), random_tensor(4, 10, seed=3),
    )  # fmt: skip


def test_split_heads_does_not_change_its_input():
    layout = reference.HeadLayout(1, 1, 1, 4)
    mixed, gain = random_tensor(1, 12), 1 + random_tensor(2, 4, seed=1)
    before = mixed.clone()
    reference.split_heads(mixed, gain, (torch.ones(1, 4), torch.zeros(1, 4)), 1e-6, layout)
    assert torch.equal(mixed, before)


def accelerated(**changes):
    network = Transformer(small(**changes), 16)
    accelerate(network)
    return network


def test_accelerate_changes_neither_parameters_nor_graph_node_names():
    network, fast = Transformer(small(), 16), accelerated()
    assert list(network.state_dict()) == list(fast.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), fast.parameters(), strict=True))
    classes = [type(module) for module in fast.modules()]
    accelerate(fast)
    assert [type(module) for module in fast.modules()] == classes
    assert isinstance(fast.blocks[0], Block)
    tokens = torch.arange(12).view(1, 12)
    assert "AttentionFunctionBackward" in graph_node_names(copy.deepcopy(fast)(tokens).logits_BTV)
    assert "AttentionFunctionBackward" not in graph_node_names(network(tokens).logits_BTV)


def test_blocks_with_an_odd_head_size_are_not_accelerated():
    network = accelerated(width=33, attention_heads=11, positions="tables").double()
    tokens = torch.arange(24).view(2, 12) % 16
    trained = network(tokens).logits_BTV
    assert "AttentionFunctionBackward" not in graph_node_names(trained)
    with torch.no_grad():
        torch.testing.assert_close(trained.detach(), network(tokens).logits_BTV, rtol=1e-10, atol=1e-10)


def test_hooks_and_replaced_modules_are_used():
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


def test_gradient_mode_does_not_change_logits():
    network = accelerated().double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    tokens = torch.arange(24).view(2, 12) % 16
    trained = network(tokens).logits_BTV
    assert "SwiGLUFunctionBackward" in graph_node_names(trained)
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
        assert ("AttentionFunctionBackward" in graph_node_names(output)) == (network is fast)
        F.cross_entropy(output.flatten(0, 1), tokens.flatten()).backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def test_autocast_gradients_are_close_to_float32():
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


def graph_node_names(tensor):
    """The names of all nodes of the autograd graph of a tensor."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return {node.name() for node in found}
