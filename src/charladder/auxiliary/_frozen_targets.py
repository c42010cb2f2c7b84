"""The output of another network as a target: it runs without gradients, once for all terms that share it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from charladder.auxiliary._errors import AuxiliaryError, call_named
from charladder.auxiliary._select import call_model, first_tensor, pick
from charladder.auxiliary._target_sources import FrozenTarget
from charladder.auxiliary._term import Term

# The outputs of frozen networks in one call of the objective.
FrozenOutputs = dict[Any, Any]


def check_frozen(model: nn.Module, terms: Mapping[str, Term]) -> None:
    """Raises AuxiliaryError if the model trains parameters of a frozen network."""
    frozen = {name: term.target.module for name, term in terms.items() if isinstance(term.target, FrozenTarget)}
    if not frozen:
        return
    trained = {id(parameter): path for path, parameter in model.named_parameters() if parameter.requires_grad}
    for name, network in frozen.items():
        shared = next((trained[id(p)] for p in network.parameters() if id(p) in trained), None)
        if shared is not None:
            raise AuxiliaryError(
                f"term {name!r}: its frozen network has the parameter {shared} of the model, which requires a "
                "gradient; give tapped(...) for a target from the model itself, give a copy (copy.deepcopy, "
                "AveragedModel), or call requires_grad_(False) on the network"
            )


def read_frozen(name: str, source: FrozenTarget, targets: Any, inputs: Any, outputs: FrozenOutputs) -> Any:
    """The target of term `name` from its frozen network.

    inputs: of the model; None if the objective did not run it. outputs: what frozen networks have returned in this
    call; filled here.
    """
    key = id(source.module), source.tap, id(source.inputs) if callable(source.inputs) else source.inputs
    if key not in outputs:
        read = _inputs(name, source, targets, inputs)
        with torch.no_grad():
            outputs[key] = call_named(f"term {name!r}: its frozen network", _run, source, read)
    what = "the output of the frozen network"
    if source.select is None:
        return first_tensor(name, outputs[key], what, "frozen(..., select=...)")
    return pick(name, outputs[key], source.select, what, "target")


def _inputs(name: str, source: FrozenTarget, targets: Any, inputs: Any) -> Any:
    if source.inputs is not None:
        return pick(name, targets, source.inputs, "targets", "target")
    if inputs is None:
        raise AuxiliaryError(
            f"term {name!r}: its frozen network reads the inputs of the model, and the objective did not run the "
            "model; say which part of targets it reads with frozen(module, inputs=...)"
        )
    return inputs


def _run(source: FrozenTarget, inputs: Any) -> Any:
    """The output of a frozen network, or of the module in it that is tapped."""
    if any(
        module.training for module in source.module.modules()
    ):  # a model that holds its teacher changes the teacher's mode with its own
        source.module.eval()
    if source.tap is None:
        return call_model(source.module, inputs)
    with source.taps.recording([source.tap]) as outputs:
        call_model(source.module, inputs)
    calls = outputs.get(source.tap, [])
    if len(calls) != 1:
        raise AuxiliaryError(f"it calls the module {source.tap} {len(calls)} times; tap a module that it calls once")
    return calls[0].output
