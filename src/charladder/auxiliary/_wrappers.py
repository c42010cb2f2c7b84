"""The model inside its wrappers: DDP, torch.compile, AveragedModel, PEFT, Lightning Fabric, an engine of DeepSpeed."""

from collections.abc import Iterable
from typing import Any, cast

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import matching_names, named_modules, submodules


def unwrapping_levels(model: Any) -> list[Any]:
    """A model and the models inside it that its wrappers run, the outermost first.

    Raises AuxiliaryError for wrappers whose modules cannot be tapped: DataParallel, whose copies run in threads, and
    FSDP1, whose inner modules see flat shards.
    """
    levels = [model]
    while isinstance(levels[-1], nn.Module):
        _check_supported(levels[-1])
        inner = wrapped_model(levels[-1])
        if inner is None:
            break
        levels.append(inner)
    return levels


def _check_supported(model: nn.Module) -> None:
    if isinstance(model, DataParallel):
        raise AuxiliaryError(
            "modules inside nn.DataParallel cannot be tapped, because it runs copies of the model; use "
            "DistributedDataParallel"
        )
    if type(model).__name__ == "FullyShardedDataParallel":
        raise AuxiliaryError("FSDP1 flattens the parameters inside; shard the model with FSDP2 (fully_shard)")


def wrapped_model(model: Any) -> nn.Module | None:
    """The model that a wrapper runs; None if this is no wrapper."""
    if isinstance(model, DistributedDataParallel):
        return cast("nn.Module", model.module)
    children = submodules(model)
    for name in ("_orig_mod", "_original_module"):  # torch.compile, Lightning Fabric
        if name in children:
            return children[name]
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if "PeftModel" in kinds:
        return model.get_base_model()
    if "PeftMixedModel" in kinds:
        return model.get_submodule("base_model.model")
    # AveragedModel, DeepSpeed's engine, Megatron's Float16Module: a submodule `module`, and no parameters of their own.
    if list(children) == ["module"] and not any(True for _ in model.parameters(recurse=False)):
        return children["module"]
    return None


def unwrap(model: Any, names: Iterable[str] = ()) -> Any:
    """The innermost model in which all these names of modules, or patterns, are found; else the innermost of all."""
    levels, patterns = unwrapping_levels(model), list(names)
    if patterns and len(levels) > 1:
        for level in reversed(levels):
            known = list(named_modules(level))
            if all(matching_names(known, pattern) for pattern in patterns):
                return level
    return levels[-1]
