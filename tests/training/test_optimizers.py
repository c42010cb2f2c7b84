"""Optimizer state by names: what one optimizer gave is put back, and what is not its state is refused."""

import pytest
import torch

from charladder.training.optimizers import optimizer_tensors, restore_optimizers
from helpers import make_trainer


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "momentum"])
def test_state_of_another_shape_name_or_parameter_is_refused(prose, optimizer):
    trainer = make_trainer(prose, optimizer=optimizer, steps=2)
    trainer.step()
    whole = trainer.optimizers, trainer.network, trainer.objective.heads
    tensors = {key: value.clone() for key, value in optimizer_tensors(*whole).items()}
    restore_optimizers(*whole, tensors)
    again = optimizer_tensors(*whole)
    assert again.keys() == tensors.keys() and all(torch.equal(again[key], tensors[key]) for key in tensors)
    key = next(key for key, value in tensors.items() if value.ndim == 2)
    for wrong in (tensors[key][:-1], tensors[key].flatten(), tensors[key][None]):
        with pytest.raises(ValueError, match=f"{key} is no state of this optimizer"):
            restore_optimizers(*whole, {key: wrong})
    with pytest.raises(ValueError, match="is no state of this optimizer"):
        restore_optimizers(*whole, {f"{key.rpartition('/')[0]}/other": tensors[key]})
    with pytest.raises(KeyError):
        restore_optimizers(*whole, {f"network.nothing/{key.rpartition('/')[2]}": tensors[key]})
