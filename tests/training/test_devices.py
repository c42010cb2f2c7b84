"""Which devices there are, by how many of each kind the machine has."""

import pytest
import torch

from charladder.errors import UserError
from charladder.training.devices import choose_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cuda:0", "cuda:1"])
def test_a_device_below_the_count_of_its_kind_is_there(two_gpus, name):
    assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cpu:1", "cuda:2", "mps", "meta"])
def test_a_device_from_the_count_of_its_kind_on_is_refused(two_gpus, name):
    with pytest.raises(UserError, match=f"device is '{name}'; this machine has only cpu, cuda$"):
        choose_device(name)
