"""The prediction of one term, from the model's output or its tap."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from charladder.auxiliary import distributed
from charladder.auxiliary._build_heads import trainable_dtypes
from charladder.auxiliary._errors import AuxiliaryError, first_line, is_control_flow, raised_by
from charladder.auxiliary._measure import describe
from charladder.auxiliary._modules import is_compiled
from charladder.auxiliary._select import (
    auxiliary_prediction,
    first_tensor,
    main_prediction,
    map_tensors,
    pick,
    tensors_in,
)
from charladder.auxiliary._taps import TapCall, TapOutputs
from charladder.auxiliary._term import MAIN, Term


def head_input(name: str, terms: Mapping[str, Term], output: Any, tap_outputs: TapOutputs, model: Any) -> Any:
    """The input of a term's head: a part of the model's output, or of its tap's output (a list for all calls)."""
    term = terms[name]
    if term.tap is not None:
        return read_tap(name, term.tap, term.call, term.select, term.detach_tap, tap_outputs, model)
    if term.select is not None:
        return pick(name, output, term.select, "the model's output")
    if name == MAIN:
        return main_prediction(name, output, "the model's output")
    returned = [n for n, t in terms.items() if t.tap is None and t.select is None and n != MAIN]
    return auxiliary_prediction(name, output, returned.index(name), len(returned))


def read_tap(
    name: str, tap: str, call: int | str | None, select: Any, detach: bool, tap_outputs: TapOutputs, model: Any
) -> Any:
    """What a tapped module returned, or the selected part of it; a list for call="all".

    name: the term. Raises AuxiliaryError if the module was not called, and if its output cannot be used.
    """
    calls = tap_outputs.get(tap, [])
    if len(calls) == 1 and select is None and call is None and _is_plain(calls[0], detach):
        return calls[0].output
    if not calls:
        hint = (
            "torch.compile runs a graph without this hook, which was made before the objective was attached, or for "
            "another model of the same class; attach the objective (Objective(model=...)) before anything is compiled, "
            "call torch.compiler.reset() after attaching, or set torch._dynamo.config.skip_nnmodule_hook_guards = "
            "False at the start of the program"
            if is_compiled(model)
            else "tap a module that the model calls, and not one whose parts it uses"
        )
        raise AuxiliaryError(f"term {name!r}: its tap {tap} was never reached in this forward pass; {hint}")
    selected = _select_calls(name, tap, call, calls)
    if not detach and torch.is_grad_enabled() and not all(one.gradients for one in selected):
        other_call = "choose a call that has gradients with Term(call=...)"
        cure = other_call if any(one.gradients for one in calls) else "checkpoint with use_reentrant=False"
        raise AuxiliaryError(
            f"term {name!r}: its tap {tap} ran with gradients off, so the term could not train the model; {cure}, "
            "or give Term(detach_tap=True)"
        )
    what = f"what {tap} returned"
    if any(one.is_modified() for one in selected):
        raise AuxiliaryError(
            f"term {name!r}: {what} was changed in place afterwards, so the tap has no longer the module's output; "
            "leave out inplace=True there, or tap the module that changes it"
        )
    outputs = [one.output for one in selected]
    if any(tensor.is_nested for output in outputs for tensor in tensors_in(output)):
        raise AuxiliaryError(
            f"term {name!r}: {what} is a nested tensor; make the encoder with enable_nested_tensor=False"
        )
    states = [first_tensor(name, o, what) if select is None else pick(name, o, select, what) for o in outputs]
    return states if call == "all" else states[0]


def _is_plain(call: TapCall, detach: bool) -> bool:
    """Whether a tapped module returned one tensor that needs no further check, as in most calls."""
    output = call.output
    has_gradients = call.gradients or detach or not torch.is_grad_enabled()
    return isinstance(output, Tensor) and has_gradients and not call.is_modified() and not output.is_nested


def _select_calls(name: str, tap: str, call: int | str | None, calls: list[TapCall]) -> list[TapCall]:
    """The calls of a tapped module that a term reads: all of them, or one. Raises AuxiliaryError if it is not clear
    which one."""
    if call == "all":
        return calls
    if len(calls) > 1 and call is None:
        raise AuxiliaryError(
            f"term {name!r}: the model calls its tap {tap} {len(calls)} times in a forward pass; say which call is "
            'meant with Term(call=0), Term(call=-1) or Term(call="all")'
        )
    index = call or 0
    if not isinstance(index, int) or not -len(calls) <= index < len(calls):
        raise AuxiliaryError(
            f"term {name!r}: its call is {index!r}, and the model calls its tap {tap} {len(calls)} times"
        )
    return [calls[index]]


def predict(name: str, term: Term, head: Any, state: Any) -> Any:
    """The prediction of a term: its head applied to `state`, or `state` itself without a head.

    Raises AuxiliaryError if the head cannot read the state.
    """
    if isinstance(state, list):
        return [predict(name, term, head, one) for one in cast("list[Any]", state)]
    if term.detach_tap:
        state = map_tensors(torch.Tensor.detach, state)
    if head is None:
        return state
    if not isinstance(head, nn.Module):
        raise AuxiliaryError(
            f"term {name!r}: its head is still to be made; call objective.build(model, inputs) once, before the "
            "optimizer is made"
        )
    if distributed.is_initialized() and any(map(distributed.is_sharded, head.parameters())):
        if not hasattr(head, "unshard"):
            raise AuxiliaryError(
                f"term {name!r}: its head is a part of a sharded model, and under FSDP2 such a part cannot be called "
                "from outside; give the term a head of its own"
            )
        if term.detach_head:
            raise AuxiliaryError(
                f"term {name!r}: its head is sharded, and FSDP2 would put back the parameters that detach_head takes "
                "away; do not shard the head"
            )
    state = _to_dtype_of(head, state)
    try:
        if term.detach_head:
            fixed = {key: value.detach() for key, value in head.named_parameters()}
            return functional_call(head, fixed, (state,))
        return head(state)
    except Exception as error:
        if is_control_flow(error):
            raise
        if not isinstance(error, RuntimeError | ValueError | TypeError | IndexError):
            raise raised_by(f"term {name!r}: its head", error) from error
        where = f"the tap {term.tap}" if term.tap else "the model's output"
        kind = (
            f"Linear({head.in_features}, {head.out_features})" if isinstance(head, nn.Linear) else type(head).__name__
        )
        raise AuxiliaryError(
            f"term {name!r}: its head {kind} cannot read {where} {describe(state)}: {first_line(error)}"
        ) from error


def _to_dtype_of(head: nn.Module, state: Any) -> Any:
    """The state in the dtype of the head's parameters, if they all have one dtype.

    A model with autocast inside (accelerate, Trainer) or in mixed precision (FSDP2) returns other dtypes than its
    parameters have, and the heads run outside of it. Under autocast nothing is converted.
    """
    weight = getattr(head, "weight", None)
    if isinstance(state, Tensor) and isinstance(weight, Tensor) and state.dtype == weight.dtype:
        return state  # also if the head has other dtypes: then nothing is converted
    dtypes = trainable_dtypes(head)
    if len(dtypes) != 1:
        return state
    (dtype,) = dtypes

    def differs(tensor: Tensor) -> bool:
        return tensor.is_floating_point() and tensor.dtype != dtype and not _is_under_autocast(tensor)

    if not any(map(differs, tensors_in(state))):
        return state
    return map_tensors(lambda tensor: tensor.to(dtype) if differs(tensor) else tensor, state)


def _is_under_autocast(tensor: Tensor) -> bool:
    device = tensor.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
