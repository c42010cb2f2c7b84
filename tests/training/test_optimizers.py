"""Optimizer state as named tensors: it is restored, and state of other optimizers is refused."""

import pytest
import torch

from charladder.training.optimizers import optimizer_tensors, restore_optimizers
from helpers import make_trainer


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "momentum"])
def test_state_of_another_shape_name_or_parameter_is_refused(prose, optimizer):
    trainer = make_trainer(prose, optimizer=optimizer, steps=2)
    trainer.step()
    arguments = trainer.optimizers, trainer.network, trainer.objective.heads
    tensors = {key: value.clone() for key, value in optimizer_tensors(*arguments).items()}
    restore_optimizers(*arguments, tensors)
    restored = optimizer_tensors(*arguments)
    assert restored.keys() == tensors.keys() and all(torch.equal(restored[key], tensors[key]) for key in tensors)
    key = next(key for key, value in tensors.items() if value.ndim == 2)
    for wrong in (tensors[key][:-1], tensors[key].flatten(), tensors[key][None]):
        with pytest.raises(ValueError, match=f"{key} is no state of this optimizer"):
            restore_optimizers(*arguments, {key: wrong})
    with pytest.raises(ValueError, match="is no state of this optimizer"):
        restore_optimizers(*arguments, {f"{key.rpartition('/')[0]}/other": tensors[key]})
    with pytest.raises(KeyError):
        restore_optimizers(*arguments, {f"network.nothing/{key.rpartition('/')[2]}": tensors[key]})
