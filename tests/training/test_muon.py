"""Muon: orthogonalisation, the comparison with torch.optim.Muon, weight decay."""

import pytest
import torch

from charladder.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(x, torch.float32))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_batch_equals_its_matrices_one_by_one():
    x = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([orthogonalise(matrix[None], torch.float32) for matrix in x])
    torch.testing.assert_close(orthogonalise(x, torch.float32), expected, rtol=1e-4, atol=1e-5)


def test_steps_equal_those_of_torch():
    """In bfloat16, as torch.optim.Muon always is, only the rounding of batched products differs."""
    start = [torch.randn(s, generator=torch.Generator().manual_seed(2)) for s in ((16, 16), (16, 16), (24, 8))]
    ours, theirs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    optimizers = (
        Muon(ours, lr=0.05, momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16),
        torch.optim.Muon(theirs, lr=0.05, momentum=0.9, weight_decay=0.1),
    )
    for step in range(3):
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(a.shape, generator=torch.Generator().manual_seed(10 * step + index))
            a.grad, b.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, first in zip(ours, theirs, start, strict=True):
        moved = (b - first).norm()
        assert moved > 0.1
        assert (a - b).norm() < 0.01 * moved


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_shrinks_by_the_rate_times_the_decay(decay):
    """As in AdamW: x (1 - rate decay) - rate update."""
    start = torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(4))
    unmoved, moved, without_decay = (torch.nn.Parameter(start.clone()) for _ in range(3))
    unmoved.grad, moved.grad, without_decay.grad = torch.zeros_like(start), gradient.clone(), gradient.clone()
    Muon([unmoved], lr=0.1, weight_decay=decay).step()
    Muon([moved], lr=0.1, weight_decay=decay).step()
    Muon([without_decay], lr=0.1).step()
    shrunk = (1 - 0.1 * decay) * start
    torch.testing.assert_close(unmoved.detach(), shrunk)
    torch.testing.assert_close(moved.detach() - shrunk, without_decay.detach() - start, rtol=0, atol=1e-6)
