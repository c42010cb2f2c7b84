"""choose_device compares the index with the number of devices of that type."""

import pytest
import torch

from charladder.errors import UserError
from charladder.training.devices import choose_device


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cuda:0", "cuda:1"])
def test_existing_devices_are_accepted(two_gpus, name):
    assert choose_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cpu:1", "cuda:2", "mps", "meta"])
def test_devices_that_do_not_exist_are_refused(two_gpus, name):
    with pytest.raises(UserError, match=f"device is '{name}'; this machine has only cpu, cuda$"):
        choose_device(name)
