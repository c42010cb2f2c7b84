"""Dropout masks: reproducible, independent, with the right rate."""

import torch

from charladder.model import Dropout


def make_dropout(*seeds, rate=0.5):
    return Dropout(rate, torch.tensor(seeds))


def test_masks_depend_on_the_example_not_the_batch():
    x = torch.ones(4, 8, 8)
    whole, first, second = make_dropout(11, 12, 13, 14), make_dropout(11, 12), make_dropout(13, 14)
    for index in range(2):
        assert torch.equal(
            whole.fold_in(index)(x), torch.cat((first.fold_in(index)(x[:2]), second.fold_in(index)(x[2:])))
        )


def test_masks_are_independent_and_keep_the_mean():
    x = torch.ones(1, 400, 400)
    found = [
        make_dropout(seed, rate=0.25).fold_in(index)(x).flatten() for seed in (0, 1, 1 << 40, -5) for index in (0, 1, 2)
    ]
    for y in found:
        assert abs(float(y.mean()) - 1) < 0.01
        assert abs(float((y == 0).float().mean()) - 0.25) < 0.005
        for lag in (1, 2, 3, 400, 1 << 16):  # neighbours, rows, and indices that differ only in high bits
            assert abs(float(torch.corrcoef(torch.stack((y[:-lag], y[lag:])))[0, 1])) < 0.02
    between = torch.corrcoef(torch.stack(found)) - torch.eye(len(found))
    assert float(between.abs().max()) < 0.015
    sums = {int((y == 0).sum()) for y in found}
    assert len(sums) > len(found) / 2  # the masks are not permutations of each other


def test_rate_over_many_elements():
    dropped = sum(int((make_dropout(seed, rate=0.55)(torch.ones(1, 1 << 16)) == 0).sum()) for seed in range(64))
    share = dropped / (64 << 16)
    assert abs(share - 0.55) < 4 * (0.55 * 0.45 / (64 << 16)) ** 0.5


def test_scaling_rounds_once_in_the_dtype_of_the_input():
    x = torch.full((1, 1 << 12), 1.37).bfloat16()
    kept = make_dropout(3, rate=0.55)(x)
    assert set(kept.unique().tolist()) == {0.0, float(x[0, 0] / 0.45)}
