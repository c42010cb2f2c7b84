import torch

from charladder.model import Dropout


def masks(*seeds, rate=0.5):
    return Dropout(rate, torch.tensor(seeds))


def test_masks_are_of_the_example_and_not_of_the_batch():
    x = torch.ones(4, 8, 8)
    whole, first, second = masks(11, 12, 13, 14), masks(11, 12), masks(13, 14)
    for place in range(2):
        assert torch.equal(
            whole.fold_in(place)(x), torch.cat((first.fold_in(place)(x[:2]), second.fold_in(place)(x[2:])))
        )


def test_places_seeds_and_elements_fall_out_independently_and_the_mean_is_kept():
    x = torch.ones(1, 400, 400)
    found = [masks(seed, rate=0.25).fold_in(place)(x).flatten() for seed in (0, 1, 1 << 40, -5) for place in (0, 1, 2)]
    for y in found:
        assert abs(float(y.mean()) - 1) < 0.01
        assert abs(float((y == 0).float().mean()) - 0.25) < 0.005
        for lag in (1, 2, 3, 400, 1 << 16):  # neighbours, rows, and what differs in its high bits alone
            assert abs(float(torch.corrcoef(torch.stack((y[:-lag], y[lag:])))[0, 1])) < 0.02
    between = torch.corrcoef(torch.stack(found)) - torch.eye(len(found))
    assert float(between.abs().max()) < 0.015
    sums = {int((y == 0).sum()) for y in found}
    assert len(sums) > len(found) / 2  # not one mask in another order


def test_the_rate_is_exact_over_many_elements():
    dropped = sum(int((masks(seed, rate=0.55)(torch.ones(1, 1 << 16)) == 0).sum()) for seed in range(64))
    share = dropped / (64 << 16)
    assert abs(share - 0.55) < 4 * (0.55 * 0.45 / (64 << 16)) ** 0.5


def test_what_stays_is_scaled_in_the_type_of_the_input_as_exactly_as_it_can():
    x = torch.full((1, 1 << 12), 1.37).bfloat16()
    kept = masks(3, rate=0.55)(x)
    assert set(kept.unique().tolist()) == {0.0, float(x[0, 0] / 0.45)}
