"""The model inside its wrappers: DDP, torch.compile, AveragedModel, PEFT, Lightning Fabric, an engine of DeepSpeed."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._taps import matching_names, named_modules


def unwrapping_levels(model: Any) -> list[Any]:
    """A model and the models inside it that its wrappers run, the outermost first.

    Raises AuxiliaryError for wrappers that cannot be read through: DataParallel, whose copies run in threads, and
    FSDP1, whose inner modules see flat shards.
    """
    found = [model]
    while isinstance(found[-1], nn.Module):
        check_readable(found[-1])
        inner = innermost_module(found[-1])
        if inner is None:
            break
        found.append(inner)
    return found


def check_readable(model: nn.Module) -> None:
    if isinstance(model, DataParallel):
        raise AuxiliaryError(
            "the inside of nn.DataParallel cannot be tapped, for it runs copies of the model; use "
            "DistributedDataParallel"
        )
    if type(model).__name__ == "FullyShardedDataParallel":
        raise AuxiliaryError("FSDP1 flattens what is inside; shard the model with FSDP2 (fully_shard)")


def innermost_module(model: nn.Module) -> nn.Module | None:
    """The model that a wrapper runs; None where this is no wrapper."""
    if isinstance(model, DistributedDataParallel):
        return model.module
    for name in ("_orig_mod", "_original_module"):  # torch.compile, Lightning Fabric
        if name in model._modules:
            return model._modules[name]
    kinds = {kind.__name__ for kind in type(model).__mro__}
    if "PeftModel" in kinds:
        return model.get_base_model()  # pyright: ignore[reportCallIssue, reportReturnType]
    if "PeftMixedModel" in kinds:
        return model.get_submodule("base_model.model")
    # AveragedModel, DeepSpeed's engine, Megatron's Float16Module: a module called `module`, and nothing of their own.
    if list(model._modules) == ["module"] and not model._parameters:
        return model._modules["module"]
    return None


def unwrap(model: Any, names: Iterable[str] = ()) -> Any:
    """The innermost model in which all these names of modules, or patterns, are found; the innermost of all where that
    is none."""
    found, patterns = unwrapping_levels(model), list(names)
    if patterns and len(found) > 1:
        for level in reversed(found):
            known = list(named_modules(level))
            if all(matching_names(known, pattern) for pattern in patterns):
                return level
    return found[-1]
