import pytest
import torch

from charladder.training.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(x, torch.float32))
    assert values.min() > 0.3
    assert values.max() < 1.3


def test_a_batch_is_its_matrices_one_by_one():
    x = torch.randn(4, 8, 12, generator=torch.Generator().manual_seed(1))
    apart = torch.cat([orthogonalise(matrix[None], torch.float32) for matrix in x])
    torch.testing.assert_close(orthogonalise(x, torch.float32), apart, rtol=1e-4, atol=1e-5)


def test_steps_equal_those_of_torch():
    """torch.optim.Muon iterates in bfloat16; ours does when told to, and then only the rounding of batching differs."""
    start = [torch.randn(s, generator=torch.Generator().manual_seed(2)) for s in ((16, 16), (16, 16), (24, 8))]
    mine, torchs = ([torch.nn.Parameter(t.clone()) for t in start] for _ in range(2))
    optimizers = (
        Muon(mine, lr=0.05, momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16),
        torch.optim.Muon(torchs, lr=0.05, momentum=0.9, weight_decay=0.1),
    )
    for step in range(3):
        for place, (a, b) in enumerate(zip(mine, torchs, strict=True)):
            gradient = torch.randn(a.shape, generator=torch.Generator().manual_seed(10 * step + place))
            a.grad, b.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, first in zip(mine, torchs, start, strict=True):
        moved = (b - first).norm()
        assert moved > 0.1
        assert (a - b).norm() < 0.01 * moved


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_weight_decay_shrinks_by_the_rate_times_the_decay(decay):
    """Before the update, as AdamW does it: x (1 - rate decay) - rate update."""
    start = torch.randn(8, 12, generator=torch.Generator().manual_seed(3))
    gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(4))
    still, moved, plain = (torch.nn.Parameter(start.clone()) for _ in range(3))
    still.grad, moved.grad, plain.grad = torch.zeros_like(start), gradient.clone(), gradient.clone()
    Muon([still], lr=0.1, weight_decay=decay).step()
    Muon([moved], lr=0.1, weight_decay=decay).step()
    Muon([plain], lr=0.1).step()
    shrunk = (1 - 0.1 * decay) * start
    torch.testing.assert_close(still.detach(), shrunk)
    torch.testing.assert_close(moved.detach() - shrunk, plain.detach() - start, rtol=0, atol=1e-6)
