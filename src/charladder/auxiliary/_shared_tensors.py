"""What an objective saves and loads where its heads share tensors with the model: only what is its own.

The shared tensors are in the model's state_dict. Loading a state_dict of the heads must not change the model.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from charladder.auxiliary._taps import modules_of


def model_tensors(models: Iterable[nn.Module]) -> set[int]:
    """The ids of the parameters and buffers of models, without those of objectives inside."""
    modules = [module for model in models for module in modules_of(model)]
    return {id(tensor) for module in modules for _, tensor in unshared_tensors(module)}


def unshared_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """What a module saves itself, without the modules inside it."""
    several = [*module._parameters.items(), *module._buffers.items()]
    return [(name, one) for name, one in several if one is not None and name not in module._non_persistent_buffers_set]


def shared(objective: Any) -> dict[str, Tensor]:
    """The tensors of the model inside an objective's heads and losses, by their names in its state_dict."""
    theirs = model_tensors(objective.attached)
    if not theirs:
        return {}
    return {
        f"{path}.{name}": tensor
        for path, module in objective.named_modules(remove_duplicate=False)
        for name, tensor in unshared_tensors(module)
        if id(tensor) in theirs
    }


def leave_out_shared(objective: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """The hook on state_dict."""
    for name in shared(objective):
        state.pop(prefix + name, None)


def keep_shared(objective: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """The hook before load_state_dict: the shared tensors are loaded from themselves. A state_dict of version 0.1 has
    values for them."""
    state.update({prefix + name: tensor for name, tensor in shared(objective).items()})
