import torch

from charladder.model import Dropout


def test_masks_are_of_the_example_and_not_of_the_batch():
    x = torch.ones(4, 8, 8)
    whole = Dropout(0.5, [11, 12, 13, 14])
    first, second = Dropout(0.5, [11, 12]), Dropout(0.5, [13, 14])
    for _ in range(2):
        assert torch.equal(whole(x), torch.cat((first(x[:2]), second(x[2:]))))


def test_places_differ_and_the_mean_is_kept():
    dropout, x = Dropout(0.25, [3]), torch.ones(1, 400, 400)
    one, two = dropout(x), dropout(x)
    assert not torch.equal(one, two)
    assert abs(float(one.mean()) - 1) < 0.01
    assert abs(float((one == 0).float().mean()) - 0.25) < 0.01
