"""State-dict hooks that leave out the tensors that heads share with the model.

The model's state_dict has the shared tensors. Loading a state_dict of the heads must not change the model.
"""

from typing import Any

from torch import Tensor, nn

from charladder.auxiliary._modules import model_modules


def leave_out_shared(objective: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """The hook on state_dict: removes the shared tensors."""
    for name in _shared_tensors(objective):
        state.pop(prefix + name, None)


def keep_shared(objective: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The hook before load_state_dict: shared tensors keep their values, also when a state_dict of version 0.1 has
    values for them."""
    state.update({prefix + name: tensor for name, tensor in _shared_tensors(objective).items()})


def _shared_tensors(objective: Any) -> dict[str, Tensor]:
    """The tensors of the model inside an objective's heads and losses, by their names in its state_dict."""
    model: nn.Module | None = objective.taps.model
    if model is None:
        return {}
    of_model = {id(tensor) for module in model_modules(model) for _, tensor in _saved_tensors(module)}
    return {
        f"{path}.{name}": tensor
        for path, module in objective.named_modules(remove_duplicate=False)
        for name, tensor in _saved_tensors(module)
        if id(tensor) in of_model
    }


def _saved_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and persistent buffers of a module, without those of its submodules."""
    buffers = module.named_buffers(recurse=False, remove_duplicate=False)
    skipped = module._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage]
    parameters = nn.Module.named_parameters(module, recurse=False, remove_duplicate=False)
    return [*parameters, *((name, buffer) for name, buffer in buffers if name not in skipped)]
